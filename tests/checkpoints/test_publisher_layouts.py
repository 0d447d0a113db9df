"""Every layout and every option of the variant table against the peer that publishes it, from pixels to logits."""

import keras
import numpy as np
import pytest
import safetensors.numpy
from backends import outputs, to_numpy
from make_references import CLASSES, ISOTROPIC, OPTIONS, REFERENCES, SMALL, STRIDES, arrays_of

from convnext_keras import ConvNeXt, WeightsError, create_model, feature_extractor, load_weights
from convnext_keras.checkpoints.publisher_layouts import LAYOUTS

pytestmark = pytest.mark.cross_backend

# Float32 sums in another order: absolute at the logits, which are of order 1, relative to the largest at the stages.
LOGITS, STAGES = 1e-4, 1e-4
CASES = {
    **{f"timm_{option}": {**SMALL, **ours} for option, (_, ours) in OPTIONS.items()},
    "meta_plain": SMALL,
    "meta_v2": {**SMALL, **OPTIONS["v2"][1]},
    "meta_isotropic": ISOTROPIC,
    "torchvision": SMALL,
    "transformers_plain": SMALL,
    "transformers_v2": {**SMALL, **OPTIONS["v2"][1]},
}


def reference(name):
    return arrays_of(REFERENCES / "keras.npz")["pixels"].astype("float32"), arrays_of(REFERENCES / f"{name}.npz")


def ours(name, **arguments):
    settings = {"classes": CLASSES, "classifier_activation": None, "input_shape": (None, None, 3), "name": "small"}
    return ConvNeXt(**CASES[name], **{**settings, "weights": REFERENCES / f"{name}.safetensors", **arguments})


def assert_stages_agree(model, pixels, expected, suffix=""):
    stages = [number for number in range(4) if f"stage_{number}{suffix}" in expected]
    extractor = feature_extractor(model, stages)
    found = extractor(pixels)
    for number, array in zip(stages, found if isinstance(found, list) else [found], strict=True):
        wanted = expected[f"stage_{number}{suffix}"]
        np.testing.assert_allclose(to_numpy(array), wanted, atol=STAGES * np.abs(wanted).max())


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_the_publishers(name):
    pixels, expected = reference(name)
    model = ours(name)
    np.testing.assert_allclose(outputs(model, pixels), expected["logits"], atol=LOGITS)
    stem = keras.Model(model.input, model.get_layer("small_stem").output)
    np.testing.assert_allclose(outputs(stem, pixels), expected["stem"], atol=STAGES * np.abs(expected["stem"]).max())
    assert_stages_agree(model, pixels, expected)


@pytest.mark.parametrize("stride", STRIDES)
def test_dilated_outputs_equal_timm(stride):
    pixels, expected = reference("timm_plain")
    model = ours("timm_plain", output_stride=stride)
    assert_stages_agree(model, pixels, expected, suffix=f"_stride_{stride}")
    np.testing.assert_allclose(outputs(model, pixels), expected[f"logits_stride_{stride}"], atol=LOGITS)


def test_headless_dinov3():
    pixels, expected = reference("transformers_dinov3")
    model = ConvNeXt(
        **SMALL,
        include_top=False,
        pooling="avg",
        input_shape=(None, None, 3),
        weights=REFERENCES / "transformers_dinov3.safetensors",
    )
    np.testing.assert_allclose(outputs(model, pixels), expected["logits"], atol=LOGITS)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_image_tower_equals_open_clip(prefix, tmp_path):
    pixels, expected = reference("open_clip")
    tensors = safetensors.numpy.load_file(REFERENCES / "open_clip.safetensors")
    path = tmp_path / "clip.safetensors"
    safetensors.numpy.save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    model = create_model("test_convnext", weights=path, include_top=False, pooling="avg", input_shape=(48, 64, 3))
    np.testing.assert_allclose(outputs(model, pixels), expected["logits"], atol=LOGITS)


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_changes_the_outputs(name, tmp_path):
    """A file without one of its tensors, or with one too many, is refused."""
    tensors = safetensors.numpy.load_file(REFERENCES / f"{name}.safetensors")
    dropped = [key for key in tensors if key.startswith("norms.")]
    assert len(dropped) == (1 if name in ("meta_plain", "meta_v2") else 0)
    model = ours(name, weights=None)
    kept = [key for key in tensors if key not in dropped]
    assert len(kept) == len(model.weights)
    for changed in (
        {key: value for key, value in tensors.items() if key != kept[len(kept) // 2]},
        {**tensors, "surplus.weight": np.zeros(2, "float32")},
    ):
        safetensors.numpy.save_file(changed, tmp_path / "changed.safetensors")
        with pytest.raises(WeightsError, match="1 missing|1 not expected"):
            load_weights(model, tmp_path / "changed.safetensors")


def test_notop_models_ignore_the_classifier():
    pixels, expected = reference("timm_hidden")
    model = ours("timm_hidden", include_top=False, pooling="avg")
    head = safetensors.numpy.load_file(REFERENCES / "timm_hidden.safetensors")
    logits = outputs(model, pixels) @ head["head.fc.weight"].T + head["head.fc.bias"]
    np.testing.assert_allclose(logits, expected["logits"], atol=LOGITS)


def test_every_layout_has_a_case():
    layouts = {"timm", "meta", "meta isotropic", "torchvision", "transformers", "transformers DINOv3"}
    layouts |= {f"{name} UPerNet" for name in ("transformers", "transformers DINOv3", "mmsegmentation")}
    assert set(LAYOUTS) == layouts | {"OpenCLIP", "OpenCLIP image tower", "OpenCLIP text tower"}


def test_unknown_layout_raises(tmp_path):
    safetensors.numpy.save_file({"conv1.weight": np.zeros(3, "float32")}, tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match="no known layout; it begins with conv1.weight"):
        ours("torchvision", weights=tmp_path / "resnet.safetensors")


def test_other_strides_raise():
    with pytest.raises(ValueError, match=r"output_stride must be None or one of \(8, 16, 32\).*4"):
        ours("torchvision", output_stride=4)
