"""Which tensor of a file belongs to which variable of a model."""

import numpy as np
import pytest

from convnext_keras.checkpoints.key_mapping import (
    Key,
    candidate_keys,
    from_torch,
    match_keys,
    native_keys,
    torch_shapes,
)
from convnext_keras.checkpoints.publisher_layouts import LAYOUTS
from convnext_keras.layer_names import TEMPLATES, LayerName

pytestmark = pytest.mark.any_backend

KERNEL = Key(LayerName("depthwise_conv", stage=2, block=1), "kernel")


def key(role, variable="kernel", **place):
    return Key(LayerName(role, **place), variable)


def test_match_keys_of_publishers():
    assert candidate_keys(LAYOUTS["timm"], KERNEL) == ["stages.2.blocks.1.conv_dw.weight"]
    assert candidate_keys(LAYOUTS["torchvision"], KERNEL) == ["features.5.1.block.0.weight"]
    assert candidate_keys(LAYOUTS["meta"], key("downsampling_conv", "bias", stage=0)) == ["downsample_layers.1.1.bias"]
    assert candidate_keys(LAYOUTS["timm"], key("text_final_norm", "gamma")) == []
    assert candidate_keys(LAYOUTS["timm"], Key(LayerName("head_dense", is_custom=True), "kernel")) == []


def test_every_layout_pattern_has_a_role():
    for layout in LAYOUTS.values():
        assert layout.rows.keys() <= TEMPLATES.keys()


@pytest.mark.parametrize(
    ("variable", "shape"), [("kernel", (7, 7, 1, 12)), ("kernel", (2, 2, 8, 16)), ("kernel", (12, 48)), ("gamma", (5,))]
)
def test_arrays_survive_pytorch_axis_order(variable, shape):
    array = np.random.default_rng(0).normal(size=shape)
    if len(shape) == 4:
        published = [array.transpose(3, 2, 0, 1)]
    elif variable == "kernel":
        published = [array.T, array.T[..., None, None]]
    else:
        published = [array, array[None, None, None], array[..., None, None]]
    of = key("head_dense", variable)
    assert {row.shape for row in published} <= set(torch_shapes(of, shape))
    for row in published:
        np.testing.assert_array_equal(from_torch(of, row, shape), array)


def test_match_native_and_numbered_keys():
    mine = Key(LayerName("dense_3", is_custom=True), "kernel")
    found = native_keys(["stage_2_block_1_depthwise_conv/kernel", "dense/kernel"], [KERNEL, mine])
    assert found[KERNEL] == "stage_2_block_1_depthwise_conv/kernel"
    assert found[mine] == "dense/kernel"


def test_equal_layers_match_in_order():
    first, second = (Key(LayerName(f"dense_{number}", is_custom=True), "kernel") for number in (7, 8))
    found = native_keys(["dense_1/kernel", "dense/kernel"], [first, second])
    assert (found[first], found[second]) == ("dense_1/kernel", "dense/kernel")
    assert first not in native_keys(["dense/kernel", "dense_1/kernel", "dense_2/kernel"], [first, second])


def test_unknown_keys_match_no_layout():
    fit = match_keys("safetensors", {"conv1.weight": (3,)}, {KERNEL: (7, 7, 1, 12)})
    assert (fit.layout, fit.sources, fit.unexpected) == (None, {}, ["conv1.weight"])


def test_ignored_keys_are_ignored_behind_a_prefix():
    name = "module.stages.2.1.dwconv.weight"
    fit = match_keys("safetensors", {name: (12, 1, 7, 7), "module.norm0.bias": (4,)}, {KERNEL: (7, 7, 1, 12)})
    assert (fit.layout, fit.sources, fit.unexpected, fit.torch) == ("meta", {KERNEL: name}, [], True)
