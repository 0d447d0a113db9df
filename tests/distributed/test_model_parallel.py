"""Training on many devices gives what one device gives; nothing large stays whole; less memory, the same gradients."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import parallel_program
import pytest
from backends import BACKEND, needs_training, outputs, randomize
from clip_models import variant
from serving import free_port
from waiting import TIMEOUT

from convnext_keras import ConvNeXt, ConvNeXtAtto, clip, create_model, distributed
from convnext_keras.distributed.model_parallel import shard_axis

pytestmark = pytest.mark.integration

TESTS = Path(__file__).parents[1]
SAME = 1e-5  # of losses and of sums of weights, relative


def run(transform, devices, folder, processes=1):
    """Returns the numbers in the last line that each process prints."""
    port = str(free_port())
    paths = [
        str(TESTS),
        str(TESTS.parent / "scripts"),
        str(TESTS.parent / "benchmarks"),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
    started = [
        subprocess.Popen(
            [
                sys.executable,
                TESTS / "distributed" / "parallel_program.py",
                transform,
                str(devices),
                str(rank),
                port,
                folder,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    printed = [process.communicate(TIMEOUT) for process in started]
    assert not any(process.returncode for process in started), printed[0][1][-3000:]
    return printed


def numbers(printed):
    return [[float(word) for word in out.splitlines()[-1].split()] for out, _ in printed]


# Of several devices, and of one.
RECIPES = {
    "jax": {"jax_data": "jax_alone", "jax_model": "jax_alone", "jax_seeded": "jax_seeded_alone"},
    "tensorflow": {"tensorflow_clip": "tensorflow_clip", "tensorflow_classifier": "tensorflow_classifier"},
}
DEVICES = {"jax": 4, "tensorflow": 2}


@functools.cache
def alone(transform):
    return getattr(parallel_program, transform)()


@pytest.mark.parametrize(("transform", "of_one"), RECIPES.get(BACKEND, {}).items())
def test_many_devices_train_as_one(transform, of_one, tmp_path):
    (many,) = numbers(run(transform, DEVICES[BACKEND], tmp_path))
    np.testing.assert_allclose(many, alone(of_one), rtol=SAME)
    if transform == "jax_data":
        (resumed,) = numbers(run("jax_resumed", 2, tmp_path))
        np.testing.assert_allclose(resumed, many[1:], rtol=SAME)


@pytest.mark.skipif(BACKEND not in ("jax", "torch"), reason="TensorFlow's processes are its strategies'")
def test_two_processes_train_as_one(tmp_path):
    both = run(f"{BACKEND}_processes", 2, tmp_path, processes=2)
    for each in numbers(both):
        np.testing.assert_allclose(each, alone({"jax": "jax_alone", "torch": "torch_processes"}[BACKEND]), rtol=SAME)
    if BACKEND == "torch":
        assert "fit trains in one process" in both[0][1]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strategies are TensorFlow's")
def test_strategies_without_gather_are_rejected(tmp_path):
    ((printed, _),) = run("tensorflow_refused", 2, tmp_path)
    assert "cannot give CLIP's loss over the whole batch" in printed


def steps(model, inputs, targets=None, loss=None):
    """Losses and weights of three steps with momentum."""
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss or clip.ContrastiveLoss())
    history = model.fit(inputs, targets, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return history.history["loss"], model.get_weights()


@needs_training
def test_micro_batches_have_the_gradients_of_the_whole():
    original = parallel_program.new_clip()
    inputs, start = parallel_program.pairs(original), original.get_weights()
    results = []
    for parts in (1, 2 if BACKEND == "tensorflow" else 4):  # TensorFlow traces each part anew.
        model = keras.models.clone_model(original)
        model.set_weights(start)
        model.micro_batches = parts
        results.append(steps(model, inputs))
    (losses, whole), (in_parts_losses, in_parts) = results
    np.testing.assert_allclose(in_parts_losses, losses, rtol=SAME)
    for one, other, before in zip(whole, in_parts, start, strict=True):
        np.testing.assert_allclose(other - before, one - before, atol=1e-6 + 2e-3 * np.abs(one - before).max())


@needs_training
def test_rematerialized_models_train_the_same_weights():
    sizes = {"depths": (1, 2), "dims": (8, 16), "classes": 3, "classifier_activation": None}
    model = randomize(ConvNeXt(**sizes, weights=None, input_shape=(32, 32, 3)))
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    start, targets = model.get_weights(), np.arange(8) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    training = distributed.with_rematerialization(model)
    np.testing.assert_allclose(outputs(training, pixels), outputs(model, pixels), atol=SAME)
    losses, trained = steps(model, pixels, targets, loss)
    model.set_weights(start)
    again, _ = steps(training, pixels, targets, loss)
    np.testing.assert_allclose(again, losses, rtol=1e-4)
    for one, other in zip(trained, model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)
    with pytest.raises(ValueError, match="random layers"):
        distributed.with_rematerialization(ConvNeXtAtto(weights=None, input_shape=(32, 32, 3), drop_path_rate=0.1))
    with pytest.raises(ValueError, match="no stages"):
        distributed.with_rematerialization(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


@needs_training
def test_micro_batches_reject_random_layers(small_clip):
    model = clip.CLIPConvNeXt(variant("linear"), drop_path_rate=0.5)
    model.micro_batches = 2
    inputs = {name: rows[:4] for name, rows in parallel_program.pairs(model).items()}
    model.compile("sgd", clip.ContrastiveLoss())
    with pytest.raises(ValueError, match="random layers"):
        model.fit(inputs, batch_size=4, verbose=0)


@needs_training
@pytest.mark.skipif(BACKEND == "tensorflow", reason="it builds programs for any number of rows, and tells later")
def test_batches_must_have_equal_parts():
    model = clip.CLIPConvNeXt(variant("linear"))
    model.micro_batches = 2
    inputs = {name: rows[:3] for name, rows in parallel_program.pairs(model).items()}
    model.compile("sgd", clip.ContrastiveLoss())
    with pytest.raises(ValueError, match="multiples of micro_batches=2. Received: 3 rows"):
        model.fit(inputs, verbose=0)


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch makes models without numbers")
def test_every_large_kernel_of_the_largest_model_is_split():
    with keras.device("meta"):
        model = clip.CLIPConvNeXtXXLarge(weights=None)
    mesh = keras.distribution.DeviceMesh((1, 8), ("batch", "model"), [f"cpu:{number}" for number in range(8)])
    layouts = distributed.layout_map(model, mesh)
    whole = split = 0
    for weight in model.weights:
        size, layout = int(np.prod(weight.shape)), layouts[weight.path]
        axes = () if layout is None else layout.axes
        if size >= 2**20 and "depthwise" not in weight.path:
            assert "model" in axes, (weight.path, weight.shape)
        split, whole = (split + size, whole) if "model" in axes else (split, whole + size)
    assert whole < 0.02 * split
    with pytest.raises(ValueError, match="must have the axes"):
        distributed.layout_map(model, keras.distribution.DeviceMesh((8,), ("model",), [f"cpu:{n}" for n in range(8)]))


@pytest.mark.any_backend
def test_both_sides_of_a_hidden_axis_are_split_alike():
    model = create_model("convnextv2_atto", weights=None, input_shape=(32, 32, 3))
    axes = {
        re.sub(r".*block_0_", "", weight.path): shard_axis(weight.path, len(weight.shape)) for weight in model.weights
    }
    assert [axes[name] for name in ("pointwise_conv_1/kernel", "pointwise_conv_1/bias", "grn/gamma")] == [1, 0, 0]
    assert [axes[name] for name in ("pointwise_conv_2/kernel", "pointwise_conv_2/bias")] == [0, None]
