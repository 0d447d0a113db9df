"""Heat maps: the formula in float64, the place of the shape in drawn images, and what is refused."""

import keras
import numpy as np
import pytest
from backends import BACKEND, needs_training, outputs, randomize
from typer.testing import CliRunner

from convnext_keras import ConvNeXt, create_model, explain, samples
from convnext_keras.cli import app
from convnext_keras.feature_extraction import split_at_stage

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "input_shape": (64, 64, 3)}


@pytest.fixture
def classifier():
    return randomize(ConvNeXt(**SIZES, weights=None, classes=5))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), "uint8")


def logits64(features, model):
    """The head in float64: mean, normalization, dense layer."""
    norm, dense = (model.get_layer(f"{model.name}_head_{name}") for name in ("layernorm", "dense"))
    gamma, beta = (np.float64(weight) for weight in norm.get_weights())
    kernel, bias = (np.float64(weight) for weight in dense.get_weights())
    means = features.mean(axis=(1, 2))
    means = means - means.mean(axis=-1, keepdims=True)
    scaled = means / np.sqrt((means**2).mean(axis=-1, keepdims=True) + norm.epsilon)
    return (scaled * gamma + beta) @ kernel + bias


def map64(features, model, target, method):
    """The definition, with central differences for the gradients."""
    weights = np.zeros(features.shape[-1])  # the same at every place, behind a mean
    for channel in range(len(weights)):
        step = np.zeros(features.shape[-1])
        step[channel] = 1e-5
        up, down = (logits64(features + sign * step, model)[0, target] for sign in (1, -1))
        weights[channel] = (up - down) / 2e-5 / features[0, ..., 0].size
    if method == "layer_cam":
        weights = np.maximum(weights, 0)
    values = np.maximum((features[0] * weights).sum(axis=-1), 0)
    return values / max(values.max(), 1e-300)


@needs_training
@pytest.mark.parametrize("method", ["grad_cam", "layer_cam"])
def test_grad_cam_equals_float64(classifier, pixels, method):
    before, after = split_at_stage(classifier, 3)
    features = outputs(before, pixels.astype("float32"))
    np.testing.assert_allclose(outputs(after, features), outputs(classifier, pixels.astype("float32")), atol=1e-6)
    for target in (0, 4):
        maps = explain.explain_images(classifier, pixels, target, method=method, stage=3)
        for row, one in enumerate(maps):
            np.testing.assert_allclose(
                one.values, map64(np.float64(features[row : row + 1]), classifier, target, method), atol=1e-4
            )
            assert one.pixels.shape == (64, 64, 3)
    best = explain.explain_images(classifier, pixels)
    probabilities = outputs(classifier, pixels.astype("float32"))
    assert [one.name for one in best] == [str(place) for place in probabilities.argmax(axis=1)]
    np.testing.assert_allclose([one.score for one in best], probabilities.max(axis=1), atol=1e-5)


@needs_training
@pytest.mark.parametrize("stage", [0, 3])
def test_explain_transfer_models(stage, pixels):
    backbone = randomize(ConvNeXt(**SIZES, weights=None, include_top=False, pooling="avg"))
    model = keras.Sequential([backbone, keras.layers.Dense(4, activation="softmax")])
    assert explain.explain_images(model, pixels, 2, stage=stage)[0].values.shape == ((16, 16) if stage == 0 else (2, 2))
    np.testing.assert_allclose(
        explain.explain_images(model, pixels, 2)[0].score, outputs(model, pixels.astype("float32"))[0, 2], atol=1e-5
    )


def share_on_shapes(model, held_out, method):
    """Part of drawn images whose map peaks on the shape named, or within 8 pixels of it."""
    hits = []
    for image, caption in zip(*(part[:20] for part in held_out), strict=True):
        shape = " ".join(caption.split()[:4])  # such as "two small green triangles"
        (one,) = explain.explain_images(model, [image], shape, method=method, stage=0)
        drawn = one.pixels.astype(int)
        background = np.median(drawn.reshape(-1, 3), axis=0)
        is_shape = np.abs(drawn - background).sum(axis=-1) > 60
        row, column = np.unravel_index(one.upsampled().argmax(), is_shape.shape)
        margin = 8
        hits.append(is_shape[max(0, row - margin) : row + margin, max(0, column - margin) : column + margin].any())
    return np.mean(hits)


@pytest.mark.slow
@pytest.mark.any_backend  # which the formula above is for
@pytest.mark.parametrize("method", explain.METHODS)
@needs_training
def test_the_map_of_a_text_peaks_on_the_shape(model, held_out, method):
    assert share_on_shapes(model, held_out, method) >= 0.9


def test_occlusion_covers_what_matters():
    """A score that is the brightness of one part of the image has its map there."""
    image = np.zeros((16, 16, 3), "uint8")
    image[8:12, 4:8] = 255
    values = explain.occlusion(lambda batch: batch[:, 8:12, 4:8].mean(axis=(1, 2, 3)), image, 4)
    expected = np.zeros((4, 4))
    expected[2, 1] = 1
    np.testing.assert_array_equal(values, expected)


def test_overlay_and_upsampled_have_the_image_size(tmp_path, classifier, pixels):
    one = explain.HeatMap(np.array([[0, 0], [0, 1]], "float32"), np.full((64, 64, 3), 100, "uint8"), "a", 1.0)
    over = np.asarray(one.overlay()).astype(int)
    assert over.shape == (64, 64, 3)
    np.testing.assert_array_equal(over[0, 0], 100)
    assert over[-1, -1, 0] > 180 > over[-1, -1, 2]  # yellow
    assert explain.plot_feature_maps(classifier, pixels[0], stage=1, channels=5).size == (6 * 124, 142)


@pytest.mark.any_backend
def test_explain_command_writes_heat_maps(tmp_path):
    from PIL import Image

    Image.fromarray(samples.load_digits()[0][0]).save(tmp_path / "digit.png")
    arguments = ["explain", tmp_path / "digit.png", "--output", tmp_path / "cam.png", "--method", "occlusion"]
    result = CliRunner().invoke(
        app, [*map(str, arguments), "--weights", "convnext_mini.digits"], catch_exceptions=False
    )
    assert "zero 0.9" in result.stdout
    with Image.open(tmp_path / "cam.png") as image:
        assert image.size == (520, 278)


@pytest.mark.any_backend
def test_explain_rejects_invalid_arguments(classifier, model, pixels):
    digits = create_model("convnext_mini.digits")
    for message, call in {
        "method must be": lambda: explain.explain_images(classifier, pixels, method="lime"),
        "target must be a class: a name, or 0 to 4": lambda: explain.explain_images(classifier, pixels, 5),
        "Received: target='eleven'": lambda: explain.explain_images(digits, pixels, "eleven"),
        "must be a text": lambda: explain.explain_images(model, pixels),
        "has no classes": lambda: explain.explain_images(ConvNeXt(**SIZES, weights=None, include_top=False), pixels),
        "grid_size must be": lambda: explain.explain_images(classifier, pixels, 1, method="occlusion", grid_size=1),
        "stage must be": lambda: explain.plot_feature_maps(classifier, pixels[0], stage=7),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    if BACKEND == "openvino":
        with pytest.raises(ValueError, match="has no gradients"):
            explain.explain_images(classifier, pixels)
