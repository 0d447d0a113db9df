"""A model's weights into the library's own files."""

import keras
import numpy as np
import pytest
import safetensors.numpy
from backends import BACKEND, randomize

from convnext_keras import ConvNeXt, clip, load_weights, save_weights


def small(**arguments):
    return ConvNeXt((1, 1), (8, 12), classes=3, input_shape=(32, 32, 3), **arguments)


@pytest.mark.cross_backend
def test_names_are_those_of_the_layers_without_the_models(tmp_path):
    model = randomize(small(name="mine"))
    save_weights(model, tmp_path / "mine.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "mine.safetensors")
    assert len(tensors) == len(model.weights)
    expected = model.get_layer("mine_stage_1_block_0_depthwise_conv").get_weights()[0]
    np.testing.assert_array_equal(tensors["stage_1_block_0_depthwise_conv/kernel"], expected)


@pytest.mark.cross_backend
@pytest.mark.skipif(BACKEND == "openvino", reason="OpenVINO has no variables of these types")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes_are_kept(dtype, tmp_path):
    model = randomize(small(dtype=dtype))
    save_weights(model, tmp_path / "half.safetensors")
    again = small(dtype=dtype)
    load_weights(again, tmp_path / "half.safetensors")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(new.astype("float32"), old.astype("float32"))


@pytest.mark.cross_backend
def test_whole_clip_models(tmp_path):
    model = clip.create_model("shapes")
    save_weights(model, tmp_path / "clip.safetensors")
    again = clip.create_model("convnext_mini", weights=tmp_path / "clip.safetensors")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.any_backend
def test_save_weights_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_weights(small(), path)
    before = path.read_bytes()

    def full(variable):
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.ops, "convert_to_numpy", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(small(), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.any_backend
def test_other_suffixes_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors\. Received: .*model\.h5"):
        save_weights(small(), tmp_path / "model.h5")
