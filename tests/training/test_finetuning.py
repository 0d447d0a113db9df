"""Fine-tuning against PyTorch, and what it promises: the same again, going on after a kill, clear refusals."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys

import digit_images
import keras
import numpy as np
import pytest
from backends import needs_training, randomize, to_numpy
from make_references import CLASSES, REFERENCES, SMALL, TRAINING, arrays_of
from waiting import wait_until

from convnext_keras import ConvNeXt, create_model, training

pytestmark = needs_training
DIGITS = "convnext_mini.digits"
# Of the way that the weights go together: Adam divides by the gradient's size, so where that is nearly 0 the order of
# float32 sums decides over a weight's direction.
WAY = 0.02
SHORT = training.TrainingConfig(epochs=2, batch_size=8, affine=1.0, drop_path_rate=0.1, label_smoothing=0.1)


def digits(count=48, prefix="number "):
    return digit_images.digits(count, prefix)


def peer_model(weights):
    options = {"classes": CLASSES, "classifier_activation": None, "input_shape": (48, 64, 3), "name": "small"}
    return ConvNeXt(**SMALL, **options, weights=REFERENCES / weights)


def peer_batch():
    pixels = arrays_of(REFERENCES / "keras.npz")["pixels"].astype("float32")
    return pixels, np.eye(CLASSES, dtype="float32")[TRAINING["labels"]]


def peer_loss():
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=TRAINING["label_smoothing"])


def test_first_loss_and_gradients_equal_pytorch():
    model, expected = peer_model("timm_plain.safetensors"), peer_model("timm_gradients.safetensors")
    before = [value.copy() for value in model.get_weights()]
    model.compile(keras.optimizers.SGD(1.0), peer_loss())
    (loss,) = model.fit(*peer_batch(), epochs=1, verbose=0).history["loss"]
    assert loss == pytest.approx(float(arrays_of(REFERENCES / "timm_gradients.npz")["loss"]), rel=1e-4)
    for old, new, gradient, variable in zip(
        before, model.get_weights(), expected.get_weights(), model.weights, strict=True
    ):
        if variable.trainable:
            scale = max(1.0, np.abs(gradient).max())
            np.testing.assert_allclose(old - new, gradient, atol=1e-4 * scale, err_msg=variable.path)


def test_twenty_steps_equal_pytorch():
    """With layer decay, weight decay of kernels, smoothing and clipping."""
    model, expected = peer_model("timm_plain.safetensors"), peer_model("timm_trained.safetensors")
    inner = keras.optimizers.AdamW(
        TRAINING["rate"], weight_decay=TRAINING["weight_decay"], global_clipnorm=TRAINING["clip_norm"]
    )
    model.compile(training.layerwise_optimizer(model, inner, TRAINING["layer_decay"]), peer_loss())
    losses = model.fit(*peer_batch(), epochs=TRAINING["steps"], verbose=0).history["loss"]
    np.testing.assert_allclose(losses, arrays_of(REFERENCES / "timm_trained.npz")["losses"], rtol=1e-3)
    start, ours, theirs = (
        np.concatenate([value.ravel() for value in row.get_weights()])
        for row in (peer_model("timm_plain.safetensors"), model, expected)
    )
    assert np.linalg.norm(ours - theirs) < WAY * np.linalg.norm(theirs - start)


def without_time(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


VARIED = dataclasses.replace(
    SHORT, epochs=1, mixup=0.8, cutmix=1.0, rand_augment=5.0, random_erasing_prob=0.5, ema_decay=0.9
)


def small_model():
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "input_shape": (32, 32, 3)}
    return randomize(ConvNeXt(**sizes, weights=None, classes=10, classifier_activation=None))


def test_the_same_seed_gives_the_same_history():
    runs = [training.fine_tune(small_model(), digits(), VARIED) for _ in range(2)]
    assert without_time(runs[0].history) == without_time(runs[1].history)
    for one, two in zip(runs[0].model.get_weights(), runs[1].model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.any_backend
def test_another_seed_gives_another_history():
    first, other = (without_time(training.fine_tune(DIGITS, digits(), VARIED, seed=seed).history) for seed in (0, 1))
    assert first != other


KILLED = """
import sys
sys.path[:0] = json_paths
from test_finetuning import DIGITS, LONG, digits
from convnext_keras import training
training.fine_tune(DIGITS, digits(), LONG, state=sys.argv[1])
"""
LONG = dataclasses.replace(SHORT, epochs=6, ema_decay=0.9)


@pytest.mark.integration
@pytest.mark.any_backend
def test_killed_training_resumes_exactly(tmp_path):
    paths = [path for path in sys.path if path.endswith(("tests", "scripts", "benchmarks"))] + [str(tmp_path.parent)]
    code = KILLED.replace("json_paths", json.dumps([str(REFERENCES.parent / "training"), *paths]))
    state = tmp_path / "state"
    process = subprocess.Popen([sys.executable, "-c", code, str(state)], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: [*state.glob("state-*.weights.h5")] or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    errors = str(process.communicate()[1])
    found = next(state.glob("state-*.weights.h5"), None)
    assert found, errors[-2000:]
    done = int(found.name.split(".")[0].removeprefix("state-"))
    assert 0 < done < LONG.epochs
    resumed = training.fine_tune(DIGITS, digits(), LONG, state=state)
    straight = training.fine_tune(DIGITS, digits(), LONG)
    assert len(resumed.history) == len(straight.history) == LONG.epochs
    for one, two in zip(without_time(resumed.history), without_time(straight.history), strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    np.testing.assert_allclose(resumed.evaluation.scores, straight.evaluation.scores, atol=1e-5)
    again = training.fine_tune(DIGITS, digits(), LONG, state=state)  # Nothing is left to do.
    assert again.history == resumed.history
    np.testing.assert_allclose(again.evaluation.scores, resumed.evaluation.scores, atol=1e-6)


class Interrupting(keras.callbacks.Callback):
    """Presses Ctrl-C at the end of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.any_backend
def test_ctrl_c_leaves_a_model_and_the_state(tmp_path):
    config = dataclasses.replace(SHORT, epochs=3)
    stopped = training.fine_tune(DIGITS, digits(), config, state=tmp_path, callbacks=[Interrupting(1)])
    assert not stopped.is_complete
    assert len(stopped.history) == 2
    assert stopped.evaluation.loss == pytest.approx(min(row["val_loss"] for row in stopped.history), rel=1e-4)
    resumed = training.fine_tune(DIGITS, digits(), config, state=tmp_path)
    assert resumed.is_complete
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    with (tmp_path / "history.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3"]


@pytest.mark.slow
@pytest.mark.any_backend
def test_patience_ends_training_with_the_best_weights(tmp_path):
    config = dataclasses.replace(SHORT, epochs=40, learning_rate=0.02, warmup_ratio=0.0, patience=2)
    trained = training.fine_tune(DIGITS, digits(), config, state=tmp_path)
    losses = [row["val_loss"] for row in trained.history]
    assert len(losses) < 40
    assert losses.index(min(losses)) == len(losses) - 3
    assert trained.evaluation.loss == pytest.approx(min(losses), rel=1e-4)
    assert training.fine_tune(DIGITS, digits(), config, state=tmp_path).history == trained.history


@pytest.mark.any_backend
def test_a_state_of_another_training_is_refused(tmp_path):
    training.fine_tune(DIGITS, digits(), "linear_probe", state=tmp_path)
    with pytest.raises(ValueError, match="state of a training with other"):
        training.fine_tune(DIGITS, digits(40), "linear_probe", state=tmp_path)
    with pytest.raises(ValueError, match="state of a training with other"):
        training.fine_tune(DIGITS, digits(), "linear_probe", seed=1, state=tmp_path)
    scratch = dataclasses.replace(SHORT, epochs=0, pretrained=False)
    training.fine_tune("convnext_mini", digits(), scratch, state=tmp_path / "other")
    with pytest.raises(ValueError, match="state of a training with other"):
        training.fine_tune(DIGITS, digits(), dataclasses.replace(scratch, pretrained=True), state=tmp_path / "other")


@pytest.mark.any_backend
def test_trained_model_keeps_its_classes(tmp_path):
    trained = training.fine_tune(DIGITS, digits(), "linear_probe")
    names = tuple(sorted({*digits()[1]}))
    trained.model.save(tmp_path / "mine.keras")
    again = create_model(tmp_path / "mine.keras")
    for model in (trained.model, again):
        assert dict(model.pretrained_info.class_names) == {name: name for name in names}
        assert model.pretrained_info.transform.size == 32
        assert model.pretrained_info.license == "apache-2.0"
        assert model.pretrained_info.weights_name == DIGITS
    result = training.evaluate(str(tmp_path / "mine.keras"), digits())
    assert result.class_names == names
    assert result.accuracy() == pytest.approx(training.evaluate(trained.model, digits()).accuracy())


@pytest.mark.any_backend
def test_classes_that_the_weights_know_keep_their_classifier():
    """The classes of the images are in another order than the model's."""
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    pixels, labels = digits(60, prefix="")
    named = [words[int(label)] for label in labels]
    trained = training.fine_tune(DIGITS, (pixels, named), training.TrainingConfig(epochs=0))
    assert trained.training.class_names == tuple(sorted(words))
    assert trained.evaluation.accuracy() > 0.9


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("form", ["sequential", "nested", "flat", "features"])
def test_fine_tune_trains_a_given_model(form):
    backbone = create_model(DIGITS, include_top=False, pooling=None if form == "features" else "avg")
    dense = keras.layers.Dense(10, "softmax", name="mine")
    inputs = keras.Input((32, 32, 3))
    model = {
        "sequential": lambda: keras.Sequential([inputs, backbone, dense]),
        "nested": lambda: keras.Model(inputs, dense(backbone(inputs))),
        "flat": lambda: keras.Model(backbone.input, dense(backbone.output)),
        "features": lambda: backbone,
    }[form]()
    before = to_numpy(backbone.weights[0]).copy()
    trained = training.fine_tune(model, digits(80), dataclasses.replace(SHORT, epochs=1, head_init="random"))
    assert not np.array_equal(to_numpy(backbone.weights[0]), before)
    assert len(trained.model.pretrained_info.class_names) == 10
    assert trained.evaluation.scores.shape == (len(trained.validation), 10)


@pytest.mark.any_backend
def test_frozen_stages_keep_their_weights():
    model = create_model(DIGITS, classifier_activation=None)
    before = {weight.path: to_numpy(weight).copy() for weight in model.weights}
    pixels, labels = digits(prefix="")
    training.fine_tune(model, (pixels, labels), dataclasses.replace(SHORT, frozen_stages=2))
    same = {path for path, value in before.items() if np.array_equal(value, to_numpy(weight_of(model, path)))}
    for path in before:
        frozen = any(f"_{part}" in path for part in ("stem", "stage_0", "stage_1", "downsampling_conv_0"))
        if "prestem" not in path and "downsampling_layernorm" not in path:
            assert (path in same) == frozen, path
    assert all(layer.trainable for layer in model.layers)


def weight_of(model, path):
    return next(weight for weight in model.weights if weight.path == path)


@pytest.mark.slow
def test_accumulated_batches_and_sixteen_bits_learn():
    config = dataclasses.replace(SHORT, epochs=3, accumulation_steps=2, precision="mixed_bfloat16", clip_norm=1.0)
    trained = training.fine_tune(DIGITS, digits(), config)
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert {layer.dtype_policy.name for layer in trained.model.layers} == {"float32"}


@pytest.mark.any_backend
def test_training_from_random_weights_needs_no_file():
    config = dataclasses.replace(training.TRAINING_PRESETS["from_scratch"], epochs=1, batch_size=16)
    trained = training.fine_tune("convnext_mini", digits(), config)
    assert trained.model.pretrained_info.weights_name is None
    assert len(trained.model.pretrained_info.class_names) == 10


@pytest.mark.any_backend
def test_fine_tune_rejects_invalid_arguments(tmp_path):
    with pytest.raises(ValueError, match="'fine_tun'. Did you mean 'fine_tune'"):
        training.fine_tune(DIGITS, digits(), "fine_tun")
    with pytest.raises(ValueError, match="learning_rate must be .* Received: learning_rate=-1"):
        training.TrainingConfig(learning_rate=-1)
    with pytest.raises(ValueError, match="epochs must be a whole number"):
        training.TrainingConfig(epochs=1.5)
    with pytest.raises(ValueError, match="crop_scale must be two rising parts"):
        training.TrainingConfig(crop_scale=(0.5, 0.2))
    with pytest.raises(ValueError, match="head_init must be 'linear_probe' or 'random'"):
        training.TrainingConfig(head_init="new")
    with pytest.raises(ValueError, match="is no weight set|name must be one of"):
        training.fine_tune("convnext_minny", digits(), SHORT)
    model = create_model(DIGITS)
    with pytest.raises(ValueError, match="classes of 'convnext_mini' are zero, one.*those of the images number 0"):
        training.fine_tune(model, digits(), SHORT)
    pixels, labels = digits(40)
    with pytest.raises(ValueError, match="has 10 outputs, the images 2 classes"):
        training.fine_tune(model, (pixels[:4], ["a", "b", "a", "b"]), SHORT)
    inner = keras.Sequential([keras.Input((32, 32, 3)), model])
    with pytest.raises(ValueError, match="must be a Dense layer, the last of the model itself.*one in a model"):
        training.fine_tune(inner, digits(), SHORT)
    softmax = keras.Sequential([*inner.layers, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="must be a Dense layer.*an activation"):
        training.fine_tune(softmax, digits(), SHORT)
    with pytest.raises(ValueError, match="No class has two images"):
        training.fine_tune(DIGITS, (pixels[:3], labels[:3]), SHORT)
