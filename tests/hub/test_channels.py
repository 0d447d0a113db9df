"""Models of any number of channels, with and without a normalization layer of their own, through every format."""

import keras
import numpy as np
import pytest
from backends import outputs, randomize

from convnext_keras import (
    ConvNeXt,
    ConvNeXtTiny,
    WeightsError,
    create_model,
    decode_predictions,
    load_weights,
    save_pretrained,
    save_weights,
)
from convnext_keras.data.transforms import NormalizationStats, adapt_statistics

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.filterwarnings("ignore:There are no statistics", "ignore:.* takes normalized pixels"),
]
SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "weights": None, "classes": 4}


@pytest.mark.parametrize("format", ["keras", "timm", "transformers"])
@pytest.mark.parametrize("include_preprocessing", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_outputs_are_equal_after_a_round_trip(channels, include_preprocessing, format, tmp_path):
    shape = (32, 32, channels)
    model = randomize(ConvNeXt(**SIZES, input_shape=shape, include_preprocessing=include_preprocessing))
    normalizes = any(isinstance(layer, keras.layers.Normalization) for layer in model.layers)
    save_pretrained(model, tmp_path / "saved", format)
    options = {} if format == "keras" or normalizes else {"include_preprocessing": False}
    loaded = create_model(tmp_path / "saved", **options)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    np.testing.assert_allclose(outputs(loaded, pixels), outputs(model, pixels), atol=1e-6)
    assert loaded.pretrained_info.transform.channels == channels


@pytest.fixture(params=["keras", "timm", "transformers", "h5", "weights.h5", "safetensors"])
def gray_equivalent(request, tmp_path):
    """A model with the same statistics in all channels, and its weights in one of the formats."""
    model = randomize(ConvNeXt(**SIZES, input_shape=(32, 32, 3), include_preprocessing=False))
    if request.param in ("keras", "timm", "transformers"):
        save_pretrained(model, tmp_path / "saved", request.param)
        return model, tmp_path / "saved"
    path = tmp_path / f"saved.{request.param}"
    save = {"h5": model.save, "weights.h5": model.save_weights, "safetensors": lambda path: save_weights(model, path)}
    save[request.param](path)
    return model, path


@pytest.mark.filterwarnings("ignore:.*ConvNeXt.*h5", "ignore:You are saving")
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_pretrained_weights_are_converted_to_other_channels(channels, gray_equivalent):
    model, weights = gray_equivalent
    options = {**SIZES, "weights": weights, "input_shape": (32, 32, channels), "include_preprocessing": False}
    if channels == 3:
        converted = ConvNeXt(**options)
    else:
        with pytest.warns(UserWarning, match=f"converted from 3 to {channels} input channels"):
            converted = ConvNeXt(**options)
    kernels = [each.get_layer(f"{each.name}_stem").get_weights()[0] for each in (model, converted)]
    parts = [kernels[0][:, :, [index % 3]] * 3 / channels for index in range(channels)]
    expected = kernels[0].sum(axis=2, keepdims=True) if channels == 1 else np.concatenate(parts, axis=2)
    np.testing.assert_allclose(kernels[1], expected, rtol=1e-6)
    for mine, theirs in zip(model.weights[1:], converted.weights[1:], strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (mine, theirs)))
    if channels in (1, 3, 6):  # An equal value in all channels gives the same output.
        gray = np.random.default_rng(0).uniform(-2, 2, (2, 32, 32, 1)).astype("float32")
        expected = outputs(model, gray.repeat(3, axis=-1))
        np.testing.assert_allclose(outputs(converted, gray.repeat(channels, axis=-1)), expected, atol=1e-5)


def test_statistics_and_transform_are_converted_too():
    with pytest.warns(UserWarning, match="converted from 3 to 1"):
        model = create_model("convnext_mini.digits", input_shape=(32, 32, 1))
    transform = model.pretrained_info.transform
    image = np.random.default_rng(0).integers(0, 256, (20, 20), "uint8")
    assert transform(image).shape == (32, 32, 1)
    assert transform.channels == len(transform.statistics.mean) == 1
    assert model.predict(transform(image)[None], verbose=0).shape == (1, 10)


def test_weights_of_other_channels_are_refused_by_load_weights(tmp_path):
    model = ConvNeXt(**SIZES, input_shape=(32, 32, 3))
    save_weights(model, tmp_path / "rgb.safetensors")
    with pytest.raises(WeightsError, match="1 unfit"):
        load_weights(ConvNeXt(**SIZES, input_shape=(32, 32, 1)), tmp_path / "rgb.safetensors")


@pytest.mark.filterwarnings("default:There are no statistics", "default:.* takes normalized pixels")
def test_transformers_format_warns_about_statistics(tmp_path):
    with pytest.warns(UserWarning, match="There are no statistics for 4 channels"):
        ConvNeXt(**SIZES, input_shape=(32, 32, 4))
    model = ConvNeXt(**SIZES, input_shape=(32, 32, 3), include_preprocessing=False)
    for format in ("timm", "transformers"):
        with pytest.warns(UserWarning, match="load it with include_preprocessing=False"):
            save_pretrained(model, tmp_path / format, format)


@pytest.mark.parametrize("channels", [1, 4])
def test_models_of_other_channels_are_saved_by_keras(channels):
    model = ConvNeXtTiny(weights=None, include_top=False, input_shape=(None, None, channels))
    assert model.output_shape == (None, None, None, 768)


def test_statistics_of_other_channels():
    given = NormalizationStats((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert adapt_statistics(given, 3) is given
    assert adapt_statistics(given, 1) == NormalizationStats((pytest.approx(0.2),), (2.0,))
    assert adapt_statistics(given, 5).mean == (0.1, 0.2, 0.3, 0.1, 0.2)


def test_numpy_integers_are_accepted():
    assert ConvNeXt(**{**SIZES, "classes": np.int64(5)}).output_shape == (None, 5)


@pytest.mark.parametrize("name", ["a.b", "a/b", "", None, 3])
def test_invalid_model_names_raise(name):
    with pytest.raises(ValueError, match="name must be a text without"):
        ConvNeXt(**SIZES, name=name)


FOREIGN = {
    "num_classes": "classes=",
    "pretrained": "weights=",
    "in_chans": "input_shape=",
    "features_only": "feature_extractor",
    "model_name": "name=",
}


@pytest.mark.parametrize("argument", FOREIGN)
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("ConvNeXtTiny", ConvNeXtTiny),
        ("create_model", lambda **options: create_model("convnext_tiny", **options)),
        ("ConvNeXt", lambda **options: ConvNeXt(**SIZES, **options)),
    ],
)
def test_arguments_of_other_libraries_are_suggested(function, call, argument):
    with pytest.raises(TypeError, match=f"{function} has no argument '{argument}'. Use {FOREIGN[argument]}"):
        call(**{argument: 1})


def test_only_the_published_numbers_of_classes_are_guessed():
    with pytest.raises(ValueError, match="1000 or"):
        decode_predictions(np.eye(10))
    assert decode_predictions(np.eye(10)[:1], top=1, class_names="digits") == [[("0", "zero", 1.0)]]


def test_three_models_in_one_process_load_weights_of_one_another(tmp_path):
    """The last norm is named anew in each, as in Keras; files and indices reach it in all."""
    models = [randomize(ConvNeXt(**SIZES, input_shape=(32, 32, 3)), seed) for seed in (1, 2, 3)]
    models[0].save_weights(tmp_path / "first.weights.h5")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    for model in models[1:]:
        model.load_weights(tmp_path / "first.weights.h5")
        np.testing.assert_allclose(outputs(model, pixels), outputs(models[0], pixels), atol=1e-6)
        assert isinstance(model.get_layer(index=-2), keras.layers.LayerNormalization)
