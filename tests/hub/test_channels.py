"""Models of any number of channels, with and without a normalization layer of their own, through every format."""

import keras
import numpy as np
import pytest
from backend import outputs, randomise

from convnext_keras import ConvNeXt, ConvNeXtTiny, create_model, decode_predictions, save_pretrained
from convnext_keras.preprocessing import Statistics, adapted

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
    model = randomise(ConvNeXt(**SIZES, input_shape=shape, include_preprocessing=include_preprocessing))
    normalizes = any(isinstance(layer, keras.layers.Normalization) for layer in model.layers)
    save_pretrained(model, tmp_path / "saved", format)
    options = {} if format == "keras" or normalizes else {"include_preprocessing": False}
    loaded = create_model(tmp_path / "saved", **options)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    np.testing.assert_allclose(outputs(loaded, pixels), outputs(model, pixels), atol=1e-6)
    assert loaded.provenance.recipe.channels == channels


@pytest.mark.filterwarnings("default:There are no statistics", "default:.* takes normalized pixels")
def test_what_a_format_cannot_say_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="There are no statistics for 4 channels"):
        ConvNeXt(**SIZES, input_shape=(32, 32, 4))
    model = ConvNeXt(**SIZES, input_shape=(32, 32, 3), include_preprocessing=False)
    for format in ("timm", "transformers"):
        with pytest.warns(UserWarning, match="load it with include_preprocessing=False"):
            save_pretrained(model, tmp_path / format, format)


@pytest.mark.parametrize("channels", [1, 4])
def test_keras_builds_these_too(channels):
    model = ConvNeXtTiny(weights=None, include_top=False, input_shape=(None, None, channels))
    assert model.output_shape == (None, None, None, 768)


def test_statistics_of_other_channels():
    given = Statistics((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert adapted(given, 3) is given
    assert adapted(given, 1) == Statistics((pytest.approx(0.2),), (2.0,))
    assert adapted(given, 5).mean == (0.1, 0.2, 0.3, 0.1, 0.2)


def test_numbers_of_numpy_are_numbers():
    assert ConvNeXt(**{**SIZES, "classes": np.int64(5)}).output_shape == (None, 5)


@pytest.mark.parametrize("name", ["a.b", "a/b", "", None, 3])
def test_names_that_a_backend_cannot_use_are_told_before_anything_is_built(name):
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
def test_arguments_of_other_libraries_are_named(function, call, argument):
    with pytest.raises(TypeError, match=f"{function} has no argument '{argument}'. Use {FOREIGN[argument]}"):
        call(**{argument: 1})


def test_only_the_published_numbers_of_classes_are_guessed():
    with pytest.raises(ValueError, match="1000 or"):
        decode_predictions(np.eye(10))
    assert decode_predictions(np.eye(10)[:1], top=1, labels="digits") == [[("0", "zero", 1.0)]]


def test_three_models_in_one_process_load_weights_of_one_another(tmp_path):
    """The last norm is named anew in each, as in Keras; files and indices reach it in all."""
    models = [randomise(ConvNeXt(**SIZES, input_shape=(32, 32, 3)), seed) for seed in (1, 2, 3)]
    models[0].save_weights(tmp_path / "first.weights.h5")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    for model in models[1:]:
        model.load_weights(tmp_path / "first.weights.h5")
        np.testing.assert_allclose(outputs(model, pixels), outputs(models[0], pixels), atol=1e-6)
        assert isinstance(model.get_layer(index=-2), keras.layers.LayerNormalization)
