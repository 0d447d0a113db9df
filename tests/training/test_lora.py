"""Low-rank updates: what learns, and that merged they are an ordinary model with the same outputs."""

import keras
import numpy as np
import pytest
from backends import needs_training, outputs
from digit_images import digits

from convnext_keras import clip, create_model, fold_for_inference, training

pytestmark = needs_training
DIGITS = "convnext_mini.digits"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")


def updated(model, seed=0):
    """With random updates."""
    training.enable_lora(model, 4)
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        if "lora" in variable.path:
            variable.assign(random.normal(0, 0.2, variable.shape))
    return model


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_merged_and_folded_models_have_the_same_outputs(form):
    model = create_model(DIGITS)
    if form == "nested":
        model = keras.Sequential([keras.Input((32, 32, 3)), model, keras.layers.Dense(3, name="mine")])
    before = outputs(model, PIXELS)
    expected = outputs(updated(model), PIXELS)
    assert not np.allclose(before, expected, atol=1e-3)
    merged = training.merge_lora(model)
    assert not [variable.path for variable in merged.weights if "lora" in variable.path]
    np.testing.assert_allclose(outputs(merged, PIXELS), expected, atol=1e-5)
    np.testing.assert_allclose(outputs(fold_for_inference(model), PIXELS), expected, atol=1e-5)
    assert training.merge_lora(merged) is merged


@pytest.mark.any_backend
def test_clip_models_are_merged_and_interpolated():
    model, tuned = (clip.create_model("convnext_mini.shapes") for _ in range(2))
    updated(tuned)
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), "uint8")
    merged = training.merge_lora(tuned)
    assert isinstance(merged, clip.CLIP)
    np.testing.assert_allclose(merged.encode_image(image), tuned.encode_image(image), atol=1e-5)
    np.testing.assert_allclose(merged.encode_text("a red star"), tuned.encode_text("a red star"), atol=1e-5)
    end = clip.interpolate_weights(model, tuned, 1)
    np.testing.assert_allclose(end.encode_image(image), tuned.encode_image(image), atol=1e-5)
    start = clip.interpolate_weights(model, tuned, 0)
    np.testing.assert_allclose(start.encode_image(image), model.encode_image(image), atol=1e-6)


@pytest.mark.any_backend
def test_only_updates_and_the_classifier_learn():
    model = training.enable_lora(create_model(DIGITS), 4)
    for variable in model.trainable_variables:
        assert "lora" in variable.path or "bias" in variable.path or "head_dense" in variable.path
    assert sum(np.prod(v.shape) for v in model.trainable_variables) < 0.1 * model.count_params()
    with pytest.raises(ValueError, match="has low-rank updates already"):
        training.enable_lora(model, 4)
    with pytest.raises(ValueError, match="rank must be 1 or more"):
        training.enable_lora(create_model(DIGITS), 0)


@pytest.mark.any_backend
def test_fine_tuning_with_lora_returns_a_merged_model(tmp_path):
    examples = digits(60, "number ")
    config = training.TrainingConfig(epochs=3, batch_size=16, lora_rank=4, learning_rate=1e-2)
    trained = training.fine_tune(DIGITS, examples, config, state=tmp_path)
    assert not [variable.path for variable in trained.model.weights if "lora" in variable.path]
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert trained.evaluation.loss == pytest.approx(trained.history[-1]["val_loss"], rel=1e-3)


@pytest.mark.any_backend
def test_soups_are_means_and_greedy_ones_no_worse_than_the_best():
    examples = digits(80)
    models = [create_model(DIGITS) for _ in range(3)]
    random = np.random.default_rng(0)
    for model, noise in zip(models, (0.02, 0.05, 0.5), strict=True):
        model.set_weights([value + noise * random.normal(0, 1, value.shape) for value in model.get_weights()])
    rows = [model.get_weights() for model in models]
    for found, *values in zip(training.average_weights(models).get_weights(), *rows, strict=True):
        np.testing.assert_allclose(found, np.mean(values, axis=0), atol=1e-6)
    weighted = training.average_weights(models, [0.5, 0.25, 0.25]).get_weights()
    np.testing.assert_allclose(weighted[3], 0.5 * rows[0][3] + 0.25 * (rows[1][3] + rows[2][3]), atol=1e-6)
    singles = [training.evaluate(model, examples).accuracy() for model in models]
    assert training.evaluate(training.greedy_soup(models, examples), examples).accuracy() >= max(singles)
    with pytest.raises(ValueError, match="as many weights that sum to 1"):
        training.average_weights(models, [0.5, 0.6, 0.7])
    with pytest.raises(ValueError, match="same variant"):
        training.average_weights([models[0], create_model("convnext_mini", weights=None, classes=3)])
