"""The contrastive loss, the augmentation and averages of weights."""

import math

import keras
import numpy as np
import pytest
from backends import needs_training, outputs, randomize, to_numpy
from clip_models import random_images, variant

from convnext_keras import clip


@pytest.mark.cross_backend
@needs_training
def test_training_keeps_the_scale_and_frozen_towers(small_clip):
    tuned = keras.models.clone_model(small_clip)
    tuned.set_weights(small_clip.get_weights())
    tuned.image_encoder.trainable = False
    tuned.get_layer("similarity").logit_scale.assign(math.log(99.9))
    tuned.compile(keras.optimizers.SGD(0.5), clip.ContrastiveLoss())
    inputs = {
        "images": np.stack([small_clip.transform(image) for image in random_images(4)]).astype("float32"),
        "tokens": small_clip.tokenizer(["a", "b", "c", "d"]),
    }
    frozen = tuned.image_encoder.get_weights()
    texts = tuned.text_encoder.get_weights()
    tuned.fit(inputs, batch_size=4, epochs=5, verbose=0)
    assert tuned.logit_scale <= 100 * (1 + 1e-6)
    for before, after in zip(frozen, tuned.image_encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(texts[0], tuned.text_encoder.get_weights()[0])


def numpy_loss(logits, groups):
    """Twice the cross-entropy with the target shared evenly by the rows of a group, in float64."""
    targets = (groups[:, None] == groups[None]).astype(float)
    targets /= targets.sum(axis=1, keepdims=True)
    total = 0.0
    for side in (logits.astype(float), logits.T.astype(float)):
        total -= (targets * (side - np.log(np.exp(side).sum(axis=1, keepdims=True)))).sum(axis=1).mean()
    return total / 2


@pytest.mark.cross_backend
@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 1, 0, 3], [0, 0, 0, 0]])
def test_loss_shares_the_target_among_equal_captions(groups):
    groups = np.array(groups)
    logits = np.random.default_rng(0).normal(0, 3, (4, 4)).astype("float32")
    loss = to_numpy(clip.ContrastiveLoss()(groups, logits))
    assert loss == pytest.approx(numpy_loss(logits, groups), rel=1e-5)


def test_equal_texts_are_found_in_the_tokens(small_clip):
    tokens = small_clip.tokenizer(["a", "b", "a", "c"])
    inputs = {
        "images": np.stack([small_clip.transform(image) for image in random_images(4)]).astype("float32"),
        "tokens": tokens,
    }
    logits = outputs(small_clip, inputs)
    clone = keras.models.clone_model(small_clip)
    clone.compile(loss=clip.ContrastiveLoss())
    found = clone.compute_loss(
        x={"tokens": keras.ops.convert_to_tensor(tokens)}, y_pred=keras.ops.convert_to_tensor(logits)
    )
    assert to_numpy(found) == pytest.approx(numpy_loss(logits, np.array([0, 1, 0, 3])), rel=1e-5)


@pytest.mark.any_backend
def test_interpolation_ends_are_exact(small_clip):
    other = randomize(clip.CLIPConvNeXt(variant("linear")), seed=2)
    for weight, end in ((0, small_clip), (1, other)):
        for found, expected in zip(
            clip.interpolate_weights(small_clip, other, weight).get_weights(), end.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    half = clip.interpolate_weights(small_clip, other, 0.5).get_weights()
    np.testing.assert_allclose(half[5], (small_clip.get_weights()[5] + other.get_weights()[5]) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="0 to 1"):
        clip.interpolate_weights(small_clip, other, 2)
    with pytest.raises(ValueError, match="same variant"):
        clip.interpolate_weights(small_clip, clip.CLIPConvNeXt(variant("custom_text")), 0.5)


@pytest.mark.any_backend
def test_augmentation_crops_and_erases():
    image = np.zeros((60, 80, 3), "uint8")
    erased = [clip.CLIPTrainTransform(32, random_erasing_prob=1.0, seed=seed)(image) for seed in range(20)]
    parts = [np.mean(pixels.any(axis=-1)) for pixels in erased]
    assert min(parts) >= 0.01
    assert max(parts) < 0.4
    assert not clip.CLIPTrainTransform(32, random_erasing_prob=0.0)(image).any()
    gradient = np.tile(np.linspace(0, 255, 80).astype("uint8")[None, :, None], (60, 1, 3))
    means = [clip.CLIPTrainTransform(32, random_erasing_prob=0.0, seed=seed)(gradient).mean() for seed in range(20)]
    assert np.std(means) > 5


@pytest.mark.cross_backend
@needs_training
def test_sigmoid_loss_equals_its_definition():
    random = np.random.default_rng(0)
    logits, groups = random.normal(0, 4, (6, 6)).astype("float32"), np.array([0, 1, 1, 2, 3, 0])
    signs = np.where(groups[:, None] == groups[None], 1, -1)
    expected = np.log1p(np.exp(-signs * logits.astype("float64"))).sum() / 6
    assert float(to_numpy(clip.SigmoidContrastiveLoss()(groups, logits))) == pytest.approx(expected, rel=1e-5)
