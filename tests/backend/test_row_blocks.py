"""PyTorch's recorded `predict`: large hidden layers are computed by blocks of rows."""

import numpy as np
import pytest
from backends import BACKEND, randomize

from convnext_keras.convnext import ConvNeXt

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="This is PyTorch's own path.")


@pytest.fixture(params=["onednn", "mkl"])
def torch_backend(request, monkeypatch):
    """The module, with small blocks, for each of the two libraries that compute dense layers."""
    from convnext_keras.backend import torch as module

    monkeypatch.setattr(module, "PREFERS_MKL", request.param == "mkl")
    monkeypatch.setattr(
        module, "MIN_HIDDEN_BYTES", 2 * 8 * 8 * 48 * 4
    )  # of the second stage below, and not of the third
    monkeypatch.setattr(module, "BLOCK_BYTES", 5_000)
    return module


def recorded(module, use_grn=False):
    import torch

    sizes = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 24), "patch_size": 4, "use_grn": use_grn}
    model = randomize(ConvNeXt(**sizes, weights=None, input_shape=(64, 64, 3)))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    with torch.no_grad():
        inputs = torch.from_numpy(pixels)
        expected = model(inputs, training=False)
        trace = module.trace(lambda batch: model(batch, training=False), inputs)
        return trace, trace(inputs).numpy(), expected.numpy()


def count_pairs(module, trace):
    return sum(node.target is module.dense_pair for node in trace.graph.nodes)


def test_large_hidden_layers_are_computed_in_blocks(torch_backend):
    trace, outputs, expected = recorded(torch_backend)
    assert count_pairs(torch_backend, trace) == 3
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_hidden_layers_with_response_normalization_stay_whole(torch_backend):
    trace, outputs, expected = recorded(torch_backend, use_grn=True)
    assert count_pairs(torch_backend, trace) == 0
    np.testing.assert_array_equal(outputs, expected)


def test_a_hidden_layer_that_something_else_uses_stays_whole(torch_backend):
    import keras
    import torch

    kernels = [torch.randn(4, 16), torch.randn(16), torch.randn(16, 4), torch.randn(4)]

    def both(inputs):
        hidden = torch_backend.dense(inputs, *kernels[:2], keras.activations.gelu)
        return torch_backend.dense(hidden, *kernels[2:], keras.activations.linear), hidden.sum()

    with torch.no_grad():
        trace = torch_backend.trace(both, torch.randn(10_000, 4))
    assert count_pairs(torch_backend, trace) == 0


@pytest.mark.parametrize("shape", [(3, 7, 5, 8), (1, 8), (130, 8)])
def test_dense_pair_equals_float64(shape, torch_backend):
    import torch

    rng = np.random.default_rng(0)
    sizes = (shape, (8, 32), (32,), (32, 8), (8,))
    inputs, kernel_1, bias_1, kernel_2, bias_2 = (torch.from_numpy(rng.normal(size=size)) for size in sizes)
    hidden = torch.nn.functional.gelu(inputs @ kernel_1 + bias_1)
    expected = hidden @ kernel_2 + bias_2
    with torch.no_grad():
        outputs = torch_backend.dense_pair(*(part.float() for part in (inputs, kernel_1, bias_1, kernel_2, bias_2)))
    np.testing.assert_allclose(outputs.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
