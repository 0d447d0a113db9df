"""Masked pre-training: hidden pixels have no effect, the loss is the paper's, and the backbone learns."""

import keras
import numpy as np
import pytest
from backends import needs_training, randomize, to_numpy
from make_references import SMALL

from convnext_keras import ConvNeXt, reset_classifier, samples, training
from convnext_keras.training.masked_pretraining import MaskedPixelLoss, masked_autoencoder, masked_batches

pytestmark = needs_training
KINDS = {
    "v1": {},
    "v2": {"use_grn": True},
    "overlap": {"stem": "overlap", "stem_width": 4},
    "dilated": {"output_stride": 8},
}


def backbone(**arguments):
    return randomize(
        ConvNeXt(**{**SMALL, "include_top": False, "pooling": "avg", "input_shape": (64, 64, 3), **arguments})
    )


def example(grid, patch, hidden=2):
    pixels = np.random.default_rng(0).integers(0, 256, (3, grid[0] * patch, grid[1] * patch, 3)).astype("float32")
    return next(masked_batches(iter([(pixels,)]), grid, patch, hidden, seed=0))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_pixels_change_nothing(kind):
    model = backbone(**KINDS[kind])
    network, grid, patch = masked_autoencoder(model, 16)
    assert patch == (8 if kind == "dilated" else 32)
    randomize(network)
    (pixels, visible), _ = example(grid, patch)
    changed = np.repeat(np.repeat(1 - visible, patch, 1), patch, 2) * 200 + pixels
    first, second = (to_numpy(network([images, visible])) for images in (pixels, changed))
    np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-4)
    other = to_numpy(network([np.flip(pixels, 0).copy(), visible]))
    assert np.abs(other - first).max() > 1e-2


def test_loss_is_that_of_the_paper():
    (_, visible), targets = example((2, 2), 32)
    predicted = np.random.default_rng(1).normal(size=(*targets.shape[:3], targets.shape[3] - 1)).astype("float32")
    pixels, hidden = targets[..., :-1].astype("float64"), 1 - visible[..., 0]
    assert hidden.sum(axis=(1, 2)).tolist() == [2, 2, 2]
    normalized = (pixels - pixels.mean(-1, keepdims=True)) / np.sqrt(pixels.var(-1, keepdims=True) + 1e-6)
    error = ((predicted - normalized) ** 2).mean(-1)
    expected = (error * hidden).sum(axis=(1, 2)) / 2
    np.testing.assert_allclose(to_numpy(MaskedPixelLoss()(targets, predicted)), expected.mean(), rtol=1e-5)


def test_targets_are_the_patches_of_the_pixels():
    (pixels, visible), targets = example((2, 2), 32)
    np.testing.assert_allclose(targets[1, 0, 1, :-1].reshape(32, 32, 3), pixels[1, :32, 32:] / 255, rtol=1e-6)
    np.testing.assert_array_equal(targets[..., -1:], 1 - visible)


@pytest.mark.cross_backend
def test_pretraining_trains_the_backbone_in_place():
    keras.utils.set_random_seed(0)
    images = [*samples.load_digits()[0][:32]]
    model = backbone(output_stride=16)
    before = [to_numpy(weight).copy() for weight in model.weights]
    config = training.TrainingConfig(epochs=5, batch_size=8, learning_rate=1e-2)
    result = training.pretrain(model, images, config, decoder_dim=16, verbose=0)
    assert result.model is model
    assert len(result.history) == 5
    assert result.history[-1] < result.history[0]
    trained = [weight for weight in model.weights if weight.trainable]
    moved = {id(weight) for weight, old in zip(model.weights, before, strict=True) if np.any(to_numpy(weight) != old)}
    unmoved = [weight.path for weight in trained if id(weight) not in moved]
    assert all("layer_normalization" in path or "head" in path for path in unmoved), unmoved  # behind the last stage
    labels = [number % 2 for number in range(32)]
    tuned = training.fine_tune(model, (np.stack(images), labels), config, validation=(np.stack(images), labels))
    assert reset_classifier(tuned.model, 0).output_shape[1] == model.output_shape[1]


def test_invalid_arguments_are_an_error():
    images = [np.zeros((64, 64, 3), "uint8")] * 4
    with pytest.raises(ValueError, match="multiples of the stride"):
        training.pretrain(backbone(input_shape=(80, 64, 3)), images)
    with pytest.raises(ValueError, match="any size"):
        training.pretrain(backbone(input_shape=(None, None, 3)), images)
    with pytest.raises(ValueError, match="mask_ratio must be above 0"):
        training.pretrain(backbone(), images, mask_ratio=1.0)
    with pytest.raises(ValueError, match="has its size already"):
        training.pretrain(backbone(), images, image_size=64)
    with pytest.raises(ValueError, match="two patches or more"):
        training.pretrain(backbone(input_shape=(32, 32, 3)), images)
    with pytest.raises(ValueError, match="no stages of a ConvNeXt. Pass the backbone itself"):
        training.pretrain(keras.Sequential([backbone(), keras.layers.Dense(2)]), images)


def test_models_with_the_channels_first_are_refused(monkeypatch):
    model = backbone()
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(ValueError, match="channels last"):
        training.pretrain(model, [np.zeros((64, 64, 3), "uint8")] * 4)
