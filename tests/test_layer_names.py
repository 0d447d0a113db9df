"""The one table of layer names."""

import pytest

from convnext_keras import create_model
from convnext_keras.configs import CONVNEXT_CONFIGS
from convnext_keras.layer_names import TEMPLATES, LayerName, parse_layer_name, parse_layer_names

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("prefix", ["", "convnext_tiny_", "a_stage_1_block_2_", "model_7_"])
@pytest.mark.parametrize("role", TEMPLATES)
def test_format_and_parse_are_inverse(role, prefix):
    fields = {field: number for field, number in (("stage", 3), ("block", 26)) if f"{{{field}}}" in TEMPLATES[role]}
    name = LayerName(role, **fields)
    fixed = role.startswith("text_") or str(name).startswith("text_block") or role == "similarity"
    if not (fixed and prefix):
        assert parse_layer_name(f"{prefix}{name}") == (prefix, name)


@pytest.mark.parametrize("name", ["dense", "layer_normalization_1", "stage_block_add", "stage_x_block_1_add", ""])
def test_custom_names_have_no_role(name):
    assert parse_layer_name(name) is None


@pytest.mark.parametrize("variant", ["convnext_mini", "convnextv2_atto", "convnext_zepto_rms_ols", "test_convnext3"])
def test_every_layer_of_a_model_with_weights_is_in_the_table(variant):
    model = create_model(variant, weights=None, include_top=False, input_shape=(32, 32, 3))
    layers = [layer for outer in model.layers for layer in getattr(outer, "layers", [outer])]
    norms = {layer.name: "normalization" in layer.name and layer is not layers[2] for layer in layers}
    names = parse_layer_names(norms)
    assert not any(names[layer.name].is_custom for layer in layers if layer.weights)
    assert list(names.values()).count(LayerName("head_layernorm")) == 1
    assert variant in CONVNEXT_CONFIGS


def test_layers_of_another_model_keep_their_names():
    layers = dict.fromkeys(["a_stage_0_block_0_add", "b_stage_0_block_0_add", "a_head_dense", "head_dense"], False)
    names = parse_layer_names(layers)
    assert [name for name, layer in names.items() if not layer.is_custom] == ["a_stage_0_block_0_add", "a_head_dense"]


def test_last_norm_is_found_by_position():
    layers = {"normalization": True, "a_stage_0_block_0_add": False, "mine": True, "layer_normalization_7": True}
    assert [name for name, layer in parse_layer_names(layers).items() if layer.role == "head_layernorm"] == ["mine"]
