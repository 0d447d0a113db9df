"""Decoders: shapes, weights, names, and what they refuse. tests/hub compares them with transformers."""

import json
import warnings

import keras
import numpy as np
import pytest
from backends import needs_training, outputs, randomize, to_numpy
from make_hub_references import HUB
from safetensors.numpy import load_file, save_file

from convnext_keras import ConvNeXt, WeightsError, clip, create_model, load_weights, save_weights, segmentation
from convnext_keras.configs import SEGMENTATION_CONFIGS, count_segmentation_params

SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)}


def backbone(**options):
    return ConvNeXt(**SMALL, include_top=False, input_shape=(None, None, 3), name="small", **options)


@pytest.mark.cross_backend
@pytest.mark.parametrize("decoder", ["upernet", "fpn", "unet"])
def test_outputs_have_the_resolution_of_the_input(decoder):
    model = segmentation.UPerNet(backbone(), 5, decoder=decoder, hidden_size=16)
    for height, width in ((64, 96), (45, 33)):
        assert outputs(model, np.zeros((2, height, width, 3), "float32")).shape == (2, height, width, 5)
    assert model.output_shape == (None, None, None, 5)


@pytest.mark.any_backend
@pytest.mark.parametrize("decoder", ["upernet", "fpn", "unet"])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_parameters_are_counted(decoder, auxiliary):
    model = segmentation.UPerNet(backbone(), 5, decoder=decoder, hidden_size=16, auxiliary_output=auxiliary)
    config = SEGMENTATION_CONFIGS["upernet_convnext_tiny"]._replace(
        backbone=config_of(SMALL), decoder=decoder, hidden_size=16
    )
    assert model.count_params() == count_segmentation_params(config, 5, auxiliary=auxiliary)


def config_of(sizes):
    from convnext_keras.configs import ConvNeXtConfig

    return ConvNeXtConfig(**sizes)


@pytest.mark.any_backend
def test_fpn_has_a_tenth_of_the_parameters():
    sizes = {
        decoder: segmentation.UPerNet(backbone(), 150, decoder=decoder).count_params() for decoder in ("upernet", "fpn")
    }
    trunk = backbone().count_params()
    assert sizes["fpn"] - trunk < 0.1 * (sizes["upernet"] - trunk)


@pytest.mark.cross_backend
@pytest.mark.parametrize(
    "make",
    [
        lambda: backbone(use_grn=True, layer_scale=False),
        lambda: backbone(patch_size=2, output_stride=8),
        lambda: ConvNeXt(**SMALL, classes=7, input_shape=(64, 64, 3), name="classifier"),
        lambda: clip.create_model("shapes"),
        lambda: "convnext_mini.digits",
        lambda: ConvNeXt(**SMALL, include_top=False, input_shape=(64, 64, 5), include_preprocessing=False),
    ],
    ids=["v2", "dilated", "classifier", "clip", "name", "five channels"],
)
def test_any_backbone_is_taken(make):
    model = segmentation.UPerNet(make(), 3, decoder="fpn", hidden_size=8)
    channels = model.input_shape[-1]
    assert outputs(model, np.zeros((1, 64, 64, channels), "float32")).shape == (1, 64, 64, 3)


@pytest.mark.any_backend
def test_the_backbone_keeps_its_weights():
    trunk = randomize(backbone())
    before = [value.copy() for value in trunk.get_weights()]
    segmentation.UPerNet(trunk, 3)
    assert all((old == new).all() for old, new in zip(before, trunk.get_weights(), strict=True))


@pytest.mark.cross_backend
def test_saving_and_loading_change_nothing(tmp_path):
    model = randomize(segmentation.UPerNet(backbone(), 3, hidden_size=8, activation="softmax", auxiliary_output=True))
    x = np.random.default_rng(0).uniform(0, 255, (1, 40, 56, 3)).astype("float32")
    expected = [to_numpy(part) for part in model(x)]
    np.testing.assert_allclose(expected[0].sum(axis=-1), 1, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = create_model(tmp_path / "model.keras")
    for mine, theirs in zip(expected, again(x), strict=True):
        np.testing.assert_allclose(mine, to_numpy(theirs), atol=1e-6)
    save_weights(model, tmp_path / "weights.safetensors")
    other = segmentation.UPerNet(backbone(), 3, hidden_size=8, activation="softmax")
    load_weights(other, tmp_path / "weights.safetensors")  # leaves the auxiliary classifier out
    np.testing.assert_allclose(expected[0], outputs(other, x), atol=1e-6)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "deeplab"}, "decoder must be one of"),
        ({"classes": 0}, "classes must be a positive whole number"),
        ({"hidden_size": 6, "decoder": "unet"}, "divisible by 4"),
        ({"activation": "relu"}, "activation must be None or 'softmax'"),
        ({"pool_scales": (1, 0)}, r"pool_scales\[1\] must be"),
    ],
)
def test_bad_arguments_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        segmentation.UPerNet(backbone(), **{"classes": 3, **options})


@pytest.mark.any_backend
def test_backbones_without_four_stages_are_refused():
    short = ConvNeXt((1, 1), (8, 12), include_top=False, input_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="4 stages"):
        segmentation.UPerNet(short, 3)


RENAMED = {
    ".batch_norm.": ".bn.",
    "_head.classifier.": "_head.conv_seg.",
    "backbone.hidden_states_norms.stage": "backbone.norm",
}


def to_mmsegmentation(name, words):
    """The names of mmsegmentation's files, by the table of transformers' own conversion read backwards."""
    for new, old in RENAMED.items():
        name = name.replace(new, old)
    if name.startswith("backbone.norm"):  # counted from 0 there
        number, _, rest = name.removeprefix("backbone.norm").partition(".")
        return f"backbone.norm{int(number) - 1}.{rest}"
    name = name.replace("backbone.embeddings.patch_embeddings.", "backbone.downsample_layers.0.0.")
    name = name.replace("backbone.embeddings.layernorm.", "backbone.downsample_layers.0.1.")
    for stage in range(4):
        head = f"backbone.encoder.stages.{stage}."
        name = name.replace(f"{head}downsampling_layer.", f"backbone.downsample_layers.{stage}.")
        name = name.replace(f"{head}layers.", f"backbone.stages.{stage}.")
    for word, other in words.items():
        name = name.replace(f".{word}", f".{other}")
    return name


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "words",
    [
        {"layernorm": "norm", "layer_scale_parameter": "gamma"},
        {
            **{"layernorm": "norm", "layer_scale_parameter": "gamma", "dwconv": "depthwise_conv"},
            **{"pwconv1": "pointwise_conv1", "pwconv2": "pointwise_conv2"},
        },
    ],
    ids=["Meta", "mmpretrain"],
)
def test_files_of_mmsegmentation_are_read(words, tmp_path):
    tensors = load_file(HUB / "upernet_v1" / "model.safetensors")
    save_file(
        {to_mmsegmentation(name, words): value for name, value in tensors.items()}, tmp_path / "mmseg.safetensors"
    )
    expected = create_model(HUB / "upernet_v1", auxiliary_output=True)
    model = create_model(HUB / "upernet_v1", weights=None, auxiliary_output=True)
    load_weights(model, tmp_path / "mmseg.safetensors")
    for mine, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.any_backend
def test_other_classes_leave_the_classifier_fresh():
    with pytest.warns(UserWarning, match="decoder_classifier' has fresh random weights"):
        model = create_model(HUB / "upernet_v1", classes=3)
    assert model.output_shape[-1] == 3
    assert model.pretrained_info.class_names is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert create_model(HUB / "upernet_v1").pretrained_info.class_names[1] == ("<b>owl</b>", "<b>owl</b>")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone_config": {"model_type": "swin"}}, r"backbone_config.model_type is 'swin'"),
        ({"backbone": "microsoft/resnet-50"}, "backbone is 'microsoft/resnet-50'"),
        ({"auxiliary_in_channels": 7}, "auxiliary_in_channels is 7; it must be null or 12"),
        ({"pool_scales": []}, "pool_scales"),
        ({"architectures": ["UperNetModel"]}, "architectures"),
    ],
)
def test_configs_that_cannot_be_followed_are_reported(changes, message, tmp_path):
    for path in (HUB / "upernet_v1").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(WeightsError, match=message):
        create_model(tmp_path)


@needs_training
@pytest.mark.cross_backend
def test_one_step_of_training_changes_all_weights():
    trunk = backbone(layer_scale_init_value=1.0)
    model = segmentation.UPerNet(trunk, 3, hidden_size=8, auxiliary_output=True)
    before = [value.copy() for value in model.get_weights()]
    from convnext_keras.training import SegmentationLoss

    model.compile(keras.optimizers.SGD(1.0), [SegmentationLoss(0.5), SegmentationLoss()])
    random = np.random.default_rng(0)
    masks = random.integers(0, 3, (2, 32, 64))
    masks[:, :4] = 255
    model.fit(random.uniform(0, 255, (2, 32, 64, 3)).astype("float32"), [masks, masks], verbose=0)
    changed = [(old != new).any() for old, new in zip(before, model.get_weights(), strict=True)]
    assert all(changed), [weight.path for weight, new in zip(model.weights, changed, strict=True) if not new]
