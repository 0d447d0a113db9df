"""Files of the peers into models, and what happens to files that do not fit."""

import ctypes
import gc
import re
import shutil
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from backends import outputs, randomize, to_numpy
from make_references import ARCHITECTURE, CLASSES, HEADS, REFERENCES, arrays_of

from convnext_keras import ConvNeXt, WeightsError, create_model, load_weights, save_weights
from convnext_keras.checkpoints import loading

# Outputs of order 1 in float32, against a peer that orders the same sums otherwise.
TOLERANCE = 1e-5
FORMATS = ("weights.h5", "safetensors")


def small(head="top", **arguments):
    depths, dims = ARCHITECTURE["depths"], ARCHITECTURE["projection_dims"]
    return ConvNeXt(depths, dims, **{"name": "small", "input_shape": (None, None, 3), **HEADS[head], **arguments})


def reference(peer):
    arrays = arrays_of(REFERENCES / f"{peer}.npz")
    return arrays["pixels"].astype("float32"), arrays


def values(model):
    """The weights but the state of random generators."""
    return [to_numpy(weight.value) for weight in model.weights if weight.name != "seed_generator_state"]


def changed_file(model, path, **changes):
    """The model's own file, with other tensors in place of some, or without those that are None."""
    save_weights(model, path)
    tensors = {**safetensors.numpy.load_file(path), **changes}
    safetensors.numpy.save_file({key: value for key, value in tensors.items() if value is not None}, path)


@pytest.mark.parametrize("by", ["load_weights", "weights=", "Keras' own load_weights"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
def test_keras_files_give_keras_outputs(peer, head, by):
    pixels, expected = reference(peer)
    path = REFERENCES / f"{peer}_{head}.h5"
    model = small(head, weights=path if by == "weights=" else None)
    if by == "load_weights":
        load_weights(model, path)
    elif by != "weights=":
        model.load_weights(path)
    np.testing.assert_allclose(outputs(model, pixels), expected[head], atol=TOLERANCE)


@pytest.mark.parametrize("file", ["keras_top.weights.h5", "keras_top_model.h5"])
def test_other_keras_files_load(file):
    pixels, expected = reference("keras")
    model = small(weights=REFERENCES / file, name="another")
    np.testing.assert_allclose(outputs(model, pixels), expected["top"], atol=TOLERANCE)
    assert model.pretrained_info.weights_file == REFERENCES / file
    assert len(model.pretrained_info.sha256) == 64


def test_predict_equals_call():
    """OpenVINO computes `predict` in bfloat16 on some processors: two percent."""
    pixels, expected = reference("keras")
    found = small(weights=REFERENCES / "keras_top.h5").predict(pixels, verbose=0)
    tolerance = 0.02 if keras.backend.backend() == "openvino" else TOLERANCE
    np.testing.assert_allclose(found, expected["top"], atol=tolerance * np.abs(expected["top"]).max())


@pytest.mark.parametrize("head", HEADS)
def test_saved_files_load_into_keras(head, tmp_path):
    from keras.src.applications.convnext import ConvNeXt as KerasConvNeXt
    from keras.src.legacy.saving import legacy_h5_format

    model = randomize(small(head), seed=2)
    with h5py.File(tmp_path / "ours.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    arguments = {**ARCHITECTURE, **HEADS[head], "name": "small", "weights": None, "input_shape": (48, 64, 3)}
    theirs = KerasConvNeXt(**arguments)
    theirs.load_weights(tmp_path / "ours.h5")
    pixels, _ = reference("keras")
    np.testing.assert_allclose(outputs(theirs, pixels), outputs(model, pixels), atol=TOLERANCE)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("head", HEADS)
def test_native_files_keep_outputs(head, form, tmp_path):
    model = randomize(small(head, drop_path_rate=0.1), seed=3)
    path = tmp_path / f"own.{form}"
    save_weights(model, path) if form == "safetensors" else model.save_weights(path)
    again = small(head, weights=path, name="again")
    pairs = zip(values(model), values(again), strict=True)
    assert all(np.array_equal(old, new) for old, new in pairs)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has float64 only on request")
def test_float64_weights_are_restored(tmp_path):
    model = small(dtype="float64")
    model.weights[0].assign(np.full(model.weights[0].shape, 1 / 3))
    model.save_weights(tmp_path / "double.weights.h5")
    again = small(dtype="float64", weights=tmp_path / "double.weights.h5")
    np.testing.assert_array_equal(to_numpy(again.weights[0].value), 1 / 3)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.skipif(keras.backend.backend() == "openvino", reason="Keras cannot write such models under OpenVINO")
def test_models_with_stochastic_depth_load(tmp_path):
    model = randomize(small(drop_path_rate=0.1))
    model.save(tmp_path / "whole.h5")
    pixels, _ = reference("keras")
    np.testing.assert_array_equal(outputs(small(weights=tmp_path / "whole.h5"), pixels), outputs(model, pixels))


def test_trained_models_load(tmp_path):
    """A compiled model writes the state of its optimizer too, which is left out by name."""
    model = randomize(small(drop_path_rate=0.1))
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "trained.weights.h5")
    again = small(weights=tmp_path / "trained.weights.h5")
    pixels, _ = reference("keras")
    np.testing.assert_array_equal(outputs(again, pixels), outputs(model, pixels))


def test_files_of_another_backend_load():
    """The digits were trained under JAX; their scores were written down there."""
    model = create_model("convnext_mini.digits")
    expected = arrays_of(REFERENCES / "digits_jax.npz")
    np.testing.assert_allclose(outputs(model, expected["pixels"].astype("float32")), expected["scores"], atol=TOLERANCE)


def test_classifier_for_other_classes_stays_fresh_with_a_warning():
    pixels, _ = reference("keras")
    with pytest.warns(UserWarning, match="'small_head_dense' has fresh random weights"):
        model = small(weights=REFERENCES / "keras_top.h5", classes=3)
    assert model.output_shape == (None, 3)
    headless = small("avg", weights=REFERENCES / "keras_top.h5")
    features = keras.Model(model.input, model.get_layer("small_head_layernorm").output)
    np.testing.assert_allclose(outputs(features, pixels), outputs(headless, pixels), atol=TOLERANCE)
    assert model.pretrained_info.class_names is None


def test_top_from_a_file_without_one_stays_fresh_with_a_warning():
    with pytest.warns(UserWarning, match="fresh random weights.*keras_avg.h5 has no classifier"):
        small(weights=REFERENCES / "keras_avg.h5")
    with pytest.raises(WeightsError, match="missing: head_dense/kernel"):
        load_weights(small(), REFERENCES / "keras_avg.h5")


def test_sixteen_bit_files_are_read(tmp_path):
    model = randomize(small())
    save_weights(model, tmp_path / "half.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "half.safetensors")
    halves = {key: tensor.astype("float16") for key, tensor in tensors.items()}
    safetensors.numpy.save_file(halves, tmp_path / "half.safetensors")
    again = small(weights=tmp_path / "half.safetensors")
    np.testing.assert_allclose(to_numpy(again.weights[0].value), to_numpy(model.weights[0].value), atol=1e-3)


BLOCK = "stage_2_block_1_depthwise_conv/kernel"
BROKEN = {
    "missing": ({BLOCK: None}, f"1 missing: {BLOCK}"),
    "surplus": ({"surprise": np.zeros(3, "float32")}, "1 not expected: 'surprise'"),
    "misshapen": ({BLOCK: np.zeros((7, 7, 1, 5), "float32")}, r"is \(7, 7, 1, 5\), expected \(7, 7, 1, 12\)"),
    "mistyped": ({BLOCK: np.zeros((7, 7, 1, 12), "int32")}, "of type I32, expected one of float32"),
    "not finite": (
        {"head_dense/bias": np.full(CLASSES, np.nan, "float32")},
        "'head_dense/bias' holds values that are not",
    ),
    "infinite": (
        {"head_dense/bias": np.full(CLASSES, np.inf, "float32")},
        "'head_dense/bias' holds values that are not",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_file_leaves_the_model_unchanged(fault, tmp_path):
    changes, message = BROKEN[fault]
    path = tmp_path / "broken.safetensors"
    changed_file(randomize(small(), seed=5), path, **changes)
    model = randomize(small(), seed=6)
    before = [np.array(to_numpy(weight.value)) for weight in model.weights]
    with pytest.raises(WeightsError, match=message) as raised:
        load_weights(model, path)
    assert "broken.safetensors" in str(raised.value)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(weight.value), value)


def test_data_is_read_after_validation(monkeypatch, tmp_path):
    changed_file(randomize(small()), tmp_path / "wide.safetensors", **BROKEN["misshapen"][0])
    monkeypatch.setattr("convnext_keras.checkpoints.loading._read_tensor", None)
    with pytest.raises(WeightsError, match="does not fit"):
        load_weights(small(), tmp_path / "wide.safetensors")


def test_equal_shapes_in_another_order_are_distinguished(tmp_path):
    """Blocks of a stage have equal shapes: only names say which is which."""
    shutil.copy(REFERENCES / "keras_top.h5", tmp_path / "swapped.h5")
    with h5py.File(tmp_path / "swapped.h5", "r+") as file:
        names = list(file.attrs["layer_names"])
        first, second = (
            next(i for i, name in enumerate(names) if name == f"small_stage_2_block_{block}_depthwise_conv")
            for block in (0, 1)
        )
        names[first], names[second] = names[second], names[first]
        file.attrs["layer_names"] = names
    pixels, expected = reference("keras")
    found = outputs(small(weights=tmp_path / "swapped.h5"), pixels)
    np.testing.assert_allclose(found, expected["top"], atol=TOLERANCE)


def test_transfer_models_are_matched_strictly():
    base = small("avg")
    model = keras.Model(base.input, keras.layers.Dense(2, name="mine")(base.output))
    with pytest.raises(WeightsError, match="2 missing: mine/kernel, mine/bias"):
        load_weights(model, REFERENCES / "keras_avg.h5")


def test_mixed_precision_models_load(tmp_path):
    model = small(weights=REFERENCES / "keras_top.h5", dtype="mixed_bfloat16")
    pixels, expected = reference("keras")
    np.testing.assert_allclose(outputs(model, pixels), expected["top"], atol=0.05)


def anonymous_bytes():
    """Memory in use that no file backs; what the C library keeps of freed memory is given back first."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s*(\d+)", status)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("form", FORMATS)
def test_loading_holds_one_tensor_at_a_time(form, tmp_path, monkeypatch):
    """Beyond the model itself: the largest tensor and 50 MB."""
    depths, dims = (1, 1, 3, 2), (128, 256, 512, 1024)
    model = ConvNeXt(depths, dims)
    path = tmp_path / f"large.{form}"
    save_weights(model, path) if form == "safetensors" else model.save_weights(path)
    assert path.stat().st_size > 100e6
    peak = []
    read = loading._read_tensor

    def measured(*arguments):
        array = read(*arguments)
        peak.append(anonymous_bytes())
        return array

    monkeypatch.setattr(loading, "_read_tensor", measured)
    gc.collect()
    before = anonymous_bytes()
    load_weights(model, path)
    largest = 4 * max(np.prod(weight.shape) for weight in model.weights)
    assert max(peak) - before < largest + 50e6


def transfer_model(head):
    """A model in the usual form of transfer learning; `head` makes its output of the backbone's."""
    base = small("avg")
    return randomize(keras.Model(base.input, head(base.output)))


def with_norm_first():
    """A custom norm before the backbone has no name, like the library's last norm."""
    inputs = keras.Input((32, 32, 3))
    base = small("avg", input_shape=(32, 32, 3))
    return randomize(keras.Model(inputs, base(keras.layers.LayerNormalization()(inputs))))


TRANSFER = {
    "unnamed dense": lambda: transfer_model(lambda x: keras.layers.Dense(2)(x)),
    "two unnamed dense": lambda: transfer_model(lambda x: keras.layers.Dense(2)(keras.layers.Dense(16)(x))),
    "unnamed norm": lambda: transfer_model(lambda x: keras.layers.Dense(2)(keras.layers.LayerNormalization()(x))),
    "norm before": with_norm_first,
    "nested": lambda: randomize(keras.Sequential([small("avg", input_shape=(32, 32, 3)), keras.layers.Dense(2)])),
    "user's convolution": lambda: transfer_model(
        lambda x: keras.layers.Conv2D(3, 1)(keras.layers.Reshape((1, 1, -1))(x))
    ),
}


@pytest.mark.any_backend
@pytest.mark.parametrize("form", ["weights.h5", "h5", "safetensors"])
@pytest.mark.parametrize("case", TRANSFER)
def test_native_files_of_transfer_models_load(case, form, tmp_path):
    """The user's layers and the library's have names of the same kind: none is taken for another."""
    from keras.src.legacy.saving import legacy_h5_format

    model, path = TRANSFER[case](), tmp_path / f"own.{form}"
    if form == "h5":
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    else:
        save_weights(model, path) if form == "safetensors" else model.save_weights(path)
    keras.utils.clear_session(free_memory=False)
    for prepare in (lambda: None, lambda: keras.layers.Dense(1)(keras.layers.LayerNormalization()(keras.Input((4,))))):
        prepare()  # Layers that are made first, so that Keras counts on from them.
        again = TRANSFER[case]()
        again.set_weights([np.zeros_like(value) for value in model.get_weights()])
        load_weights(again, path)
        for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("nested", [False, True])
def test_transfer_models_built_on_keras_applications(nested, tmp_path):
    """The file of a model whose backbone was `keras.applications`' fits the same model on this library's backbone."""
    from keras.src.applications.convnext import ConvNeXt as KerasConvNeXt

    options = {"name": "small", "include_top": False, "pooling": "avg", "weights": None, "input_shape": (32, 32, 3)}
    theirs, ours = KerasConvNeXt(**ARCHITECTURE, **options), small("avg", input_shape=(32, 32, 3))
    models = []
    for base in (theirs, ours):
        head = keras.layers.Dense(2)
        models.append(keras.Sequential([base, head]) if nested else keras.Model(base.input, head(base.output)))
    randomize(models[0]).save_weights(tmp_path / "theirs.weights.h5")
    load_weights(models[1], tmp_path / "theirs.weights.h5")
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(outputs(models[1], pixels), outputs(models[0], pixels), atol=1e-4)


@pytest.mark.any_backend
def test_new_model_reads_each_tensor_once(monkeypatch):
    """Loading into a user's model reads twice, so that nothing changes unless all is good; see `loading.load`."""
    reads = []
    read = loading._read_tensor
    monkeypatch.setattr(loading, "_read_tensor", lambda *arguments: reads.append(arguments[2]) or read(*arguments))
    model = small(weights=REFERENCES / "keras_top.h5")
    assert len(reads) == len(set(reads)) == len(model.weights)
    reads.clear()
    load_weights(model, REFERENCES / "keras_top.h5")
    assert len(reads) == 2 * len(model.weights)


@pytest.mark.any_backend
def test_custom_layer_may_have_a_library_name(tmp_path):
    base = small("avg")
    names = ("head_dense", "stage_0_block_0_pointwise_conv_1", "projection")
    x = base.output
    for name in names:
        x = keras.layers.Dense(16, name=name)(x)
    model = randomize(keras.Model(base.input, x))
    save_weights(model, tmp_path / "own.safetensors")
    again = keras.models.clone_model(model)
    load_weights(again, tmp_path / "own.safetensors")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    with pytest.raises(WeightsError, match="missing: other.head_dense/kernel"):
        load_weights(again, REFERENCES / "keras_avg.h5")
