"""`pretrained_info` of every model, also after saving."""

import dataclasses

import keras
import numpy as np
import pytest
from backends import BACKEND

from convnext_keras import ConvNeXt, clip, create_model, feature_extractor, fold_for_inference
from convnext_keras.data.transforms import ImageTransform

DIGITS = "convnext_mini.digits"


@pytest.mark.any_backend
def test_random_weights_have_no_info():
    for model in (
        ConvNeXt((1, 1), (8, 12), weights=None),
        create_model("convnext_mini", weights=None),
        clip.create_model("convnext_mini", weights=None),
        clip.create_model("convnext_mini", weights=None).image_encoder,
    ):
        assert model.pretrained_info is None


@pytest.mark.any_backend
def test_derived_models_keep_info():
    model = create_model(DIGITS)
    assert feature_extractor(model, [1]).pretrained_info is model.pretrained_info
    assert fold_for_inference(model).pretrained_info == model.pretrained_info
    bundled = clip.create_model("shapes")
    assert bundled.image_encoder.pretrained_info == bundled.text_encoder.pretrained_info == bundled.pretrained_info
    known = clip.ZeroShotClassifier(bundled, ["a", "b"]).to_keras_model().pretrained_info
    assert known == dataclasses.replace(bundled.pretrained_info, class_names=(("a", "a"), ("b", "b")))


@pytest.mark.parametrize("form", ["keras", "json", "clone"])
@pytest.mark.parametrize("make", [lambda: create_model(DIGITS), lambda: clip.create_model("shapes")])
def test_saved_models_keep_info(make, form, tmp_path):
    model = make()
    if form == "keras":
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
    elif form == "json":
        again = keras.models.model_from_json(model.to_json())
    else:
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
    if form == "clone":
        assert isinstance(again, type(model))
        return
    before, after = model.pretrained_info, again.pretrained_info
    assert (after.weights_name, after.sha256, after.license, after.class_names) == (
        before.weights_name, before.sha256, before.license, before.class_names,
    )  # fmt: skip
    assert after.transform == before.transform
    assert isinstance(after.transform, ImageTransform)
    assert after.weights_file.name == before.weights_file.name
    assert after.weights_file.parent.name == ""  # The folder is this machine's.


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.skipif(BACKEND == "openvino", reason="Keras cannot write such models under OpenVINO")
def test_h5_models_keep_info(tmp_path):
    model = create_model(DIGITS)
    model.save(tmp_path / "model.h5")
    again = keras.saving.load_model(tmp_path / "model.h5", compile=False)
    assert again.pretrained_info.sha256 == model.pretrained_info.sha256
    pixels = np.zeros((1, 32, 32, 3), "float32")
    np.testing.assert_array_equal(again.predict(pixels, verbose=0), model.predict(pixels, verbose=0))
