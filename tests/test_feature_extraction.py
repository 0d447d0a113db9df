"""Models out of models."""

import keras
import numpy as np
import pytest
from backends import BACKEND, randomize, to_numpy
from make_references import SMALL

from convnext_keras import ConvNeXt, feature_extractor, feature_info, pyramid_outputs, reset_classifier

# Relative to the largest output. OpenVINO's `predict` computes in bfloat16 on some processors.
PREDICTED = 2e-2 if BACKEND == "openvino" else 1e-4


def backbone(**arguments):
    return ConvNeXt(**SMALL, **{"include_top": False, "input_shape": (64, 64, 3), **arguments})


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 255, (*shape, 3)).astype("float32")


def nested_once(base):
    return keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])


def nested_behind_augmentation(base):
    inputs = keras.Input((64, 64, 3))
    x = base(keras.layers.Rescaling(0.5)(inputs))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))


def nested_twice(base):
    return keras.Sequential([keras.Input((64, 64, 3)), keras.Sequential([base]), keras.layers.GlobalAveragePooling2D()])


@pytest.mark.parametrize(
    ("nest", "scale"), [(nested_once, 1), (nested_behind_augmentation, 0.5), (nested_twice, 1), (lambda base: base, 1)]
)
@pytest.mark.parametrize("stages", [(0, 1, 2, 3), (3,), (2, 0)])
def test_nested_backbones_give_their_stages(nest, scale, stages):
    base = randomize(backbone())
    expected = feature_extractor(base, range(4))(scale * pixels(2, 64, 64))
    features = feature_extractor(nest(base), stages)(pixels(2, 64, 64))
    assert isinstance(features, list)
    for stage, feature in zip(stages, features, strict=True):
        np.testing.assert_allclose(to_numpy(feature), to_numpy(expected[stage]), rtol=1e-4, atol=1e-4)


def test_features_share_the_weights_of_the_model():
    base = randomize(backbone())
    extractor = feature_extractor(nested_once(base), [3])
    before = to_numpy(extractor(pixels(1, 64, 64))[0])
    base.set_weights([2 * weight for weight in base.get_weights()])
    assert np.abs(to_numpy(extractor(pixels(1, 64, 64))[0]) - before).max() > 1e-3


@pytest.mark.cross_backend
@pytest.mark.parametrize("stages", [(3,), (1, 3)])
def test_features_are_a_list_in_every_way(stages, tmp_path):
    extractor = feature_extractor(randomize(backbone()), stages)
    expected = [to_numpy(row) for row in extractor(pixels(2, 64, 64))]
    assert len(expected) == len(stages)
    extractor.save(tmp_path / "features.keras")
    loaded = keras.models.load_model(tmp_path / "features.keras")
    for found in (
        extractor.predict(pixels(2, 64, 64), verbose=0),
        extractor.predict_on_batch(pixels(2, 64, 64)),
        [to_numpy(row) for row in loaded(pixels(2, 64, 64))],
    ):
        assert isinstance(found, list)
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_allclose(to_numpy(one), two, rtol=0, atol=PREDICTED * np.abs(two).max())
    inputs = keras.Input((64, 64, 3))
    assert len(extractor(inputs)) == len(stages)


def test_missing_stages_raise():
    with pytest.raises(ValueError, match=r"some of \[0, 1, 2, 3\].*\(4,\)"):
        feature_extractor(backbone(), [4])
    with pytest.raises(ValueError, match=r"some of \[\]"):
        feature_extractor(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), [0])
    with pytest.raises(ValueError, match=r"no input shape yet. Call it once"):
        feature_extractor(keras.Sequential([keras.layers.Dense(2)]), [0])


def test_feature_info_and_pyramid_outputs():
    base = backbone()
    rows = feature_info(base)
    assert [(row.num_chs, row.reduction) for row in rows] == [
        (dims, stride) for dims, stride in zip(SMALL["dims"], (4, 8, 16, 32), strict=True)
    ]
    assert [row.num_chs for row in feature_info(nested_once(base))] == [row.num_chs for row in rows]
    dilated = feature_info(backbone(output_stride=16))
    assert [row.reduction for row in dilated] == [4, 8, 16, 16]
    outputs = pyramid_outputs(base)
    assert [*outputs] == ["P2", "P3", "P4", "P5"]
    images = pixels(1, 64, 64)
    expected = feature_extractor(base)(images)
    for found, wanted in zip(keras.Model(base.input, [*outputs.values()])(images), expected, strict=True):
        np.testing.assert_allclose(to_numpy(found), to_numpy(wanted), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no stages"):
        feature_info(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]))


def test_reset_classifier_keeps_all_but_the_last_layer():
    model = randomize(ConvNeXt(**SMALL, classes=5, input_shape=(64, 64, 3)))
    images = pixels(2, 64, 64)
    before = to_numpy(model(images))
    features = reset_classifier(model, 0)
    new = reset_classifier(model, 3, "sigmoid")
    assert new.output_shape == (None, 3)
    assert new.layers[-1].name == model.layers[-1].name
    kernel, bias = new.layers[-1].get_weights()
    logits = to_numpy(features(images)) @ kernel + bias
    np.testing.assert_allclose(to_numpy(new(images)), 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(to_numpy(model(images)), before)
    with pytest.raises(ValueError, match="last layer is dense"):
        reset_classifier(backbone(), 3)
    with pytest.raises(ValueError, match="0 or more"):
        reset_classifier(model, -1)
