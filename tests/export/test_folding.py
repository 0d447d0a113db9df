"""Folded models compute what the originals do."""

import keras
import numpy as np
import pytest
from backends import outputs, randomize
from make_references import OPTIONS, SMALL

from convnext_keras import ConvNeXt, clip, fold_for_inference
from convnext_keras.layers import LayerScale

# Float32 sums in another order, relative to the largest output.
SAME = 1e-5


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 255, (*shape, 3)).astype("float32")


@pytest.mark.parametrize(
    "option", ["plain", "v2", "norm_first", "hidden", "rms", "simple", "epsilon", "silu", "overlap_act"]
)
def test_folding_keeps_outputs(option):
    model = randomize(ConvNeXt(**SMALL, **OPTIONS[option][1], input_shape=(None, None, 3), drop_path_rate=0.2))
    folded = fold_for_inference(model)
    assert len(folded.layers) < len(model.layers)
    assert not any(isinstance(layer, LayerScale) for layer in folded.layers)
    for shape in ((2, 64, 64), (1, 40, 96)):
        expected = outputs(model, pixels(*shape))
        np.testing.assert_allclose(outputs(folded, pixels(*shape)), expected, atol=SAME * np.abs(expected).max())


def test_nested_models_are_folded_too():
    backbone = ConvNeXt(**SMALL, include_top=False, pooling="avg", input_shape=(32, 32, 3))
    model = randomize(keras.Sequential([backbone, keras.layers.Dense(2)]))
    folded = fold_for_inference(model)
    np.testing.assert_allclose(
        outputs(folded, pixels(2, 32, 32)), outputs(model, pixels(2, 32, 32)), rtol=1e-4, atol=SAME
    )


def test_the_original_stays_and_the_copy_knows_its_source():
    model = clip.create_model("shapes")
    before = model.get_weights()
    folded = fold_for_inference(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert folded.pretrained_info == model.pretrained_info
    assert isinstance(folded, clip.CLIP)
    images = pixels(3, 64, 64)
    np.testing.assert_allclose(folded.encode_image(images), model.encode_image(images), atol=SAME)
    np.testing.assert_allclose(folded.encode_text(["a red star"]), model.encode_text(["a red star"]), atol=SAME)


def test_models_without_norms_are_rejected():
    with pytest.raises(ValueError, match="no ConvNeXt blocks to fold"):
        fold_for_inference(keras.Sequential([keras.layers.Dense(2)], name="other"))
