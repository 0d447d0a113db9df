"""Layer-wise steps against float64, against optimizers of their own, and within Keras' fit."""

import inspect

import keras
import numpy as np
import pytest
from backends import BACKEND, needs_training, to_numpy

from convnext_keras import create_model, training

pytestmark = needs_training
RATE, DECAY, CLIP = 0.01, 0.1, 0.5


def two_layers(seed=0):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((5,)), keras.layers.Dense(4, "tanh", name="low"), keras.layers.Dense(3, name="high")]
    model = keras.Sequential(layers, name="two")
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(0, 1, value.shape).astype("float32") for value in model.get_weights()])
    return model


def gradients(model, count, seed=1):
    random = np.random.default_rng(seed)
    return [[random.normal(0, 1, v.shape).astype("float32") for v in model.trainable_variables] for _ in range(count)]


def reference(values, steps, scales, decayed, average):
    """AdamW by its paper in float64, with global clipping, decoupled decay and a rate for each variable."""
    values = [value.astype("float64") for value in values]
    firsts, seconds = ([np.zeros_like(value) for value in values] for _ in range(2))
    averages = [value.copy() for value in values]
    for t, step in enumerate(steps, start=1):
        norm = np.sqrt(sum((gradient.astype("float64") ** 2).sum() for gradient in step))
        for i, gradient in enumerate(step):
            gradient = gradient.astype("float64") * min(1, CLIP / norm)
            rate = RATE * scales[i]
            values[i] -= rate * DECAY * values[i] * decayed[i]
            firsts[i] = 0.9 * firsts[i] + 0.1 * gradient
            seconds[i] = 0.999 * seconds[i] + 0.001 * gradient**2
            values[i] -= rate * firsts[i] / (1 - 0.9**t) / (np.sqrt(seconds[i] / (1 - 0.999**t)) + 1e-7)
            part = 0 if t == 1 else min(average, (1 + t) / (10 + t))
            averages[i] = part * averages[i] + (1 - part) * values[i]
    return values, averages


def test_ten_steps_equal_float64():
    model = two_layers()
    start, steps = [value.copy() for value in model.get_weights()], gradients(model, 10)
    inner = keras.optimizers.AdamW(RATE, weight_decay=DECAY, global_clipnorm=CLIP)
    optimizer = training.LayerwiseOptimizer(inner, {"low/kernel": 0.25, "low/bias": 0.25}, ema_decay=0.6)
    values, averages = reference(start, steps, [0.25, 0.25, 1, 1], [1, 0, 1, 0], 0.6)
    for step in steps:
        optimizer.apply([keras.ops.convert_to_tensor(value) for value in step], model.trainable_variables)
    for value, variable in zip(values, model.get_weights(), strict=True):
        np.testing.assert_allclose(variable, value, atol=2e-5)
    optimizer.finalize_variable_values(model.trainable_variables)
    for average, variable in zip(averages, model.get_weights(), strict=True):
        np.testing.assert_allclose(variable, average, atol=2e-5)


OPTIMIZERS = sorted(
    name
    for name, kind in vars(keras.optimizers).items()
    if inspect.isclass(kind) and issubclass(kind, keras.optimizers.Optimizer) and name != "Optimizer"
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_steps_as_with_a_rate_for_each_variable(name):
    """Keras' own MultiOptimizer, one optimizer for each rate, is the judge."""
    make = getattr(keras.optimizers, name)
    if name in ("Ftrl", "ScheduleFreeAdamW", "LossScaleOptimizer", "MultiOptimizer"):
        options = {"LossScaleOptimizer": keras.optimizers.SGD(), "MultiOptimizer": lambda variable: None}
        inner = make(options[name]) if name in options else make()
        with pytest.raises(ValueError, match=f"proportional to its learning rate.*Received: {name}"):
            training.LayerwiseOptimizer(inner)
        return
    options = {"momentum": 0.9} if name == "SGD" else {}
    model, judge = two_layers(), two_layers()
    optimizer = training.LayerwiseOptimizer(make(RATE, **options), {"low/kernel": 0.25, "low/bias": 0.25})
    low, high = make(RATE * 0.25, **options), make(RATE, **options)
    for one in (low, high):
        one.exclude_from_weight_decay(var_names=["bias"])
    multiple = keras.optimizers.MultiOptimizer(lambda variable: low if "low/" in variable.path else high)
    for step in gradients(model, 5):
        tensors = [keras.ops.convert_to_tensor(value) for value in step]
        optimizer.apply(tensors, model.trainable_variables)
        multiple.apply(tensors, judge.trainable_variables)
    for ours, theirs in zip(model.get_weights(), judge.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert np.abs(model.get_weights()[0] - two_layers().get_weights()[0]).max() > 1e-6


def batches(seed=0):
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (32, 5)).astype("float32"), random.integers(0, 3, 32)


def fitted(model, optimizer, epochs=3, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **options)
    return model.fit(*batches(), batch_size=8, epochs=epochs, shuffle=False, verbose=0).history


def layered(inner, model, **options):
    return training.LayerwiseOptimizer(inner, {"low/kernel": 0.25, "low/bias": 0.25}, **options)


def test_accumulated_steps_are_those_of_the_whole_batch():
    """Clipped once, by the norm of the mean gradient."""
    whole, parts = two_layers(), two_layers()
    options = {"weight_decay": DECAY, "global_clipnorm": 0.1}
    fitted(whole, layered(keras.optimizers.AdamW(RATE, **options), whole))
    inner = keras.optimizers.AdamW(RATE, gradient_accumulation_steps=2, **options)
    parts.compile(layered(inner, parts), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    parts.fit(*batches(), batch_size=4, epochs=3, shuffle=False, verbose=0)
    for one, two in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_schedules_are_logged_and_rates_can_be_set():
    schedule = keras.optimizers.schedules.CosineDecay(RATE, 12)
    history = fitted(model := two_layers(), layered(keras.optimizers.AdamW(schedule), model))
    assert model.optimizer.iterations == 12
    assert np.isfinite(history["loss"]).all()
    optimizer = layered(keras.optimizers.AdamW(RATE), model := two_layers())
    reduced = keras.callbacks.LearningRateScheduler(lambda epoch: RATE / 2**epoch)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(*batches(), epochs=3, verbose=0, callbacks=[reduced]).history
    np.testing.assert_allclose(history["learning_rate"], [RATE, RATE / 2, RATE / 4], rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = two_layers()
    history = fitted(model, layered(keras.optimizers.AdamW(RATE, global_clipnorm=1.0), model, ema_decay=0.9), 10)
    assert history["loss"][-1] < history["loss"][0]


def test_averages_are_swapped_for_evaluation_and_left_in_the_model():
    model = two_layers()
    optimizer = layered(keras.optimizers.SGD(0.5), model, ema_decay=0.9)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    fitted(model, optimizer)
    model.fit(*batches(), batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[swap])
    for average, weight in zip(optimizer.held.averages, model.get_weights(), strict=True):
        np.testing.assert_allclose(to_numpy(average), weight, atol=1e-6)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="the resumed steps are compiled in another order of sums")
def test_saved_model_resumes_exactly(tmp_path):
    straight, saved = two_layers(), two_layers()
    for model in (straight, saved):
        schedule = keras.optimizers.schedules.CosineDecay(RATE, 24)
        fitted(model, layered(keras.optimizers.AdamW(schedule, weight_decay=DECAY), model, ema_decay=0.9))
    saved.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == saved.optimizer.get_config()
    for model in (straight, loaded):
        model.fit(*batches(), batch_size=8, epochs=3, shuffle=False, verbose=0)
    for one, two in zip(straight.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_layers_near_the_input_learn_slowly():
    model = create_model("convnext_mini.digits")
    before = {variable.path: to_numpy(variable) for variable in model.trainable_variables}
    model.compile(
        training.layerwise_optimizer(model, keras.optimizers.SGD(1e-3), 0.1), "sparse_categorical_crossentropy"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("uint8")
    model.fit(pixels, np.arange(4), verbose=0)
    moved = {v.path: np.abs(to_numpy(v) - before[v.path]).max() for v in model.trainable_variables}
    stem = max(value for path, value in moved.items() if "stem_conv" in path)
    head = max(value for path, value in moved.items() if "head_dense" in path)
    assert 0 < stem < head / 100


def test_layerwise_optimizer_rejects_invalid_arguments():
    with pytest.raises(ValueError, match=r"ema_decay must be None.*ema_decay=1"):
        training.LayerwiseOptimizer(keras.optimizers.SGD(), ema_decay=1)
    with pytest.raises(ValueError, match="ask for ema_decay here"):
        training.LayerwiseOptimizer(keras.optimizers.SGD(use_ema=True))
    with pytest.raises(ValueError, match="Received: str"):
        training.LayerwiseOptimizer("adamw")
