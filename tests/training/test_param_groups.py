"""Depths and groups against the rules that Meta published, written out once more for names in Meta's form."""

import keras
import pytest
from backends import needs_training

from convnext_keras import ConvNeXt, clip, create_model, training
from convnext_keras.configs import CLIP_CONFIGS
from convnext_keras.training.param_groups import layer_depths, variable_key

pytestmark = pytest.mark.any_backend
DEEP = (3, 3, 27, 3)


def meta_depth(name: str, mode: str) -> int:
    """The layer number of a variable by Meta's name for it, as the papers' recipes count; 27 blocks in the third."""
    kind, *numbers = name.split(".")
    stage = int(numbers[0]) if numbers else 0
    if mode == "stage":
        if kind == "downsample_layers":
            return (0, 2, 3, 12)[stage]
        return (1, 2, 3 + int(numbers[1]) // 3, 12)[stage] if kind == "stages" else 13
    before = sum(DEEP[:stage])
    if kind == "downsample_layers":
        return before + 1 if stage else 0
    return before + int(numbers[1]) + 1 if kind == "stages" else sum(DEEP) + 1


def meta_name(layer: str) -> str:
    """Returns the path of a variable of a layer of this library."""
    words = layer.removeprefix("deep_").split("_")
    if words[0] == "stage":
        return f"stages.{words[1]}.{words[3]}"
    if words[0] == "downsampling":
        return f"downsample_layers.{int(words[-1]) + 1}"
    return "downsample_layers.0" if words[0] in ("stem", "prestem") else "head"


@pytest.mark.parametrize("mode", ["block", "stage"])
def test_layer_depths_equal_meta(mode):
    model = ConvNeXt(DEEP, (8, 8, 8, 8), name="deep", classes=3, input_shape=(32, 32, 3))
    found = layer_depths(model, mode)
    assert len(found) > 180
    for layer, (_, depth, head) in found:
        assert depth == meta_depth(meta_name(layer.name), mode), layer.name
        assert head == (13 if mode == "stage" else 37)


def test_every_variable_is_in_one_group():
    for model in (create_model("convnext_mini.digits"), clip.create_model("convnext_mini.shapes")):
        groups = training.parameter_groups(model, 0.7)
        paths = [path for group in groups for path in group.variables]
        assert sorted(paths) == sorted(variable_key(variable) for variable in model.trainable_variables)
        assert sum(group.parameters for group in groups) == sum(
            int(keras.ops.size(variable)) for variable in model.trainable_variables
        )


def test_scales_fall_towards_the_input_and_vectors_do_not_decay():
    model = create_model("convnext_mini.digits")
    sizes = {variable_key(variable): len(variable.shape) for variable in model.trainable_variables}
    groups = training.parameter_groups(model, 0.5)
    head = max(group.depth for group in groups)
    for group in groups:
        assert group.scale == 0.5 ** (head - group.depth)
        assert all((sizes[path] > 1) == group.decayed for path in group.variables)


def test_both_towers_of_a_clip_have_depths_of_their_own():
    model = clip.create_model("convnext_mini.shapes")
    groups = training.parameter_groups(model, 0.5)
    places = {path: (group.depth, group.scale) for group in groups for path in group.variables}
    text_blocks = CLIP_CONFIGS["convnext_mini"].text.layers
    assert places["text_token_embedding/embeddings"] == (0, 0.5 ** (text_blocks + 1))
    assert places["text_final_norm/gamma"] == (text_blocks + 1, 1)
    assert places["similarity/logit_scale"][1] == 1


@needs_training
def test_parameter_groups_of_transfer_models():
    backbone = create_model("convnext_mini.digits", include_top=False, pooling="avg")
    inputs = keras.Input((32, 32, 3))
    nested = keras.Model(inputs, keras.layers.Dense(2, name="mine")(backbone(inputs)))
    flat = keras.Model(backbone.input, keras.layers.Dense(2, name="mine")(backbone.output))
    for model in (keras.Sequential([inputs, backbone, keras.layers.Dense(2, name="mine")]), nested, flat):
        groups = training.parameter_groups(model, 0.5)
        scales = {path: group.scale for group in groups for path in group.variables}
        head = max(group.depth for group in groups)
        assert [scale for path, scale in scales.items() if "mine" in path] == [1, 1]
        stem = next(scale for path, scale in scales.items() if "stem_conv" in path)
        assert stem == 0.5**head
    backbone.trainable = False
    trained = [path for group in training.parameter_groups(nested, 0.5) for path in group.variables]
    assert [path.rpartition("mine/")[2] for path in trained] == ["kernel", "bias"]


def test_parameter_groups_rejects_invalid_arguments():
    model = create_model("convnext_mini.digits")
    with pytest.raises(ValueError, match=r"layer_decay must be above 0.*layer_decay=1.5"):
        training.parameter_groups(model, 1.5)
    with pytest.raises(ValueError, match=r"mode must be 'block' or 'stage'.*mode='blocks'"):
        training.parameter_groups(model, 0.5, "blocks")
