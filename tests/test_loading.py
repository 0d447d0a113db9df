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
from conftest import outputs, randomise, to_numpy
from make_references import ARCHITECTURE, CLASSES, HEADS, REFERENCES

from convnext_keras import ConvNeXt, WeightsError, create_model, load_weights, loading
from convnext_keras.loading import named_variables

# Outputs of order 1 in float32, against a peer that orders the same sums otherwise.
TOLERANCE = 1e-5
FORMATS = ("weights.h5", "safetensors")


def small(head="top", **arguments):
    depths, dims = ARCHITECTURE["depths"], ARCHITECTURE["projection_dims"]
    return ConvNeXt(depths, dims, **{"name": "small", "input_shape": (None, None, 3), **HEADS[head], **arguments})


def reference(peer):
    arrays = np.load(REFERENCES / f"{peer}.npz")
    return arrays["pixels"].astype("float32"), arrays


def write_safetensors(model, path, **changes):
    arrays = {key: np.array(to_numpy(variable.value)) for key, (_, variable) in named_variables(model).items()}
    arrays |= {key: value for key, value in changes.items() if value is not None}
    safetensors.numpy.save_file({key: value for key, value in arrays.items() if changes.get(key, 0) is not None}, path)


@pytest.mark.parametrize("by", ["load_weights", "weights=", "Keras' own load_weights"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("peer", ["keras", "tf_keras"])
def test_files_of_keras_give_its_numbers(peer, head, by):
    pixels, expected = reference(peer)
    path = REFERENCES / f"{peer}_{head}.h5"
    model = small(head, weights=path if by == "weights=" else None)
    if by == "load_weights":
        load_weights(model, path)
    elif by != "weights=":
        model.load_weights(path)
    np.testing.assert_allclose(outputs(model, pixels), expected[head], atol=TOLERANCE)


@pytest.mark.parametrize("file", ["keras_top.weights.h5", "keras_top_model.h5"])
def test_other_files_of_keras(file):
    pixels, expected = reference("keras")
    model = small(weights=REFERENCES / file, name="another")
    np.testing.assert_allclose(outputs(model, pixels), expected["top"], atol=TOLERANCE)
    assert model.provenance.file == REFERENCES / file
    assert len(model.provenance.sha256) == 64


def test_predict_agrees_too():
    """OpenVINO computes `predict` in bfloat16 on some processors: two percent."""
    pixels, expected = reference("keras")
    found = small(weights=REFERENCES / "keras_top.h5").predict(pixels, verbose=0)
    tolerance = 0.02 if keras.backend.backend() == "openvino" else TOLERANCE
    np.testing.assert_allclose(found, expected["top"], atol=tolerance * np.abs(expected["top"]).max())


@pytest.mark.parametrize("head", HEADS)
def test_files_of_ours_load_into_keras(head, tmp_path):
    from keras.src.applications.convnext import ConvNeXt as KerasConvNeXt
    from keras.src.legacy.saving import legacy_h5_format

    model = randomise(small(head), seed=2)
    with h5py.File(tmp_path / "ours.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    arguments = {**ARCHITECTURE, **HEADS[head], "name": "small", "weights": None, "input_shape": (48, 64, 3)}
    theirs = KerasConvNeXt(**arguments)
    theirs.load_weights(tmp_path / "ours.h5")
    pixels, _ = reference("keras")
    np.testing.assert_allclose(outputs(theirs, pixels), outputs(model, pixels), atol=TOLERANCE)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("head", HEADS)
def test_own_files_change_nothing(head, form, tmp_path):
    model = randomise(small(head, drop_path_rate=0.1), seed=3)
    path = tmp_path / f"own.{form}"
    if form == "safetensors":
        write_safetensors(model, path)
    else:
        model.save_weights(path)
    again = small(head, weights=path, name="again")
    for old, new in zip(named_variables(model).values(), named_variables(again).values(), strict=True):
        np.testing.assert_array_equal(to_numpy(old[1].value), to_numpy(new[1].value))


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has float64 only on request")
def test_double_precision_comes_back_whole(tmp_path):
    model = small(dtype="float64")
    model.weights[0].assign(np.full(model.weights[0].shape, 1 / 3))
    model.save_weights(tmp_path / "double.weights.h5")
    again = small(dtype="float64", weights=tmp_path / "double.weights.h5")
    np.testing.assert_array_equal(to_numpy(again.weights[0].value), 1 / 3)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.skipif(keras.backend.backend() == "openvino", reason="Keras cannot write such models under OpenVINO")
def test_whole_models_with_stochastic_depth(tmp_path):
    model = randomise(small(drop_path_rate=0.1))
    model.save(tmp_path / "whole.h5")
    pixels, _ = reference("keras")
    np.testing.assert_array_equal(outputs(small(weights=tmp_path / "whole.h5"), pixels), outputs(model, pixels))


def test_weights_of_a_trained_model(tmp_path):
    """A compiled model writes the state of its optimizer too, which is left out by name."""
    model = randomise(small(drop_path_rate=0.1))
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "trained.weights.h5")
    again = small(weights=tmp_path / "trained.weights.h5")
    pixels, _ = reference("keras")
    np.testing.assert_array_equal(outputs(again, pixels), outputs(model, pixels))


def test_file_written_under_another_backend():
    """The digits were trained under JAX; their scores were written down there."""
    model = create_model("convnext_mini.digits")
    expected = np.load(REFERENCES / "digits_jax.npz")
    np.testing.assert_allclose(outputs(model, expected["pixels"].astype("float32")), expected["scores"], atol=TOLERANCE)


def test_classifier_for_other_classes_stays_fresh_with_a_warning():
    pixels, _ = reference("keras")
    with pytest.warns(UserWarning, match="'small_head_dense' has fresh random weights"):
        model = small(weights=REFERENCES / "keras_top.h5", classes=3)
    assert model.output_shape == (None, 3)
    headless = small("avg", weights=REFERENCES / "keras_top.h5")
    features = keras.Model(model.input, model.get_layer("small_head_layernorm").output)
    np.testing.assert_allclose(outputs(features, pixels), outputs(headless, pixels), atol=TOLERANCE)
    assert model.provenance.labels is None


def test_top_from_a_file_without_one_stays_fresh_with_a_warning():
    with pytest.warns(UserWarning, match="fresh random weights.*keras_avg.h5 has no classifier"):
        small(weights=REFERENCES / "keras_avg.h5")
    with pytest.raises(WeightsError, match="missing: head_dense/kernel"):
        load_weights(small(), REFERENCES / "keras_avg.h5")


def test_sixteen_bit_files_are_read(tmp_path):
    model = randomise(small())
    arrays = {key: to_numpy(variable.value).astype("float16") for key, (_, variable) in named_variables(model).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "half.safetensors")
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
def test_nothing_is_assigned_from_a_broken_file(fault, tmp_path):
    changes, message = BROKEN[fault]
    path = tmp_path / "broken.safetensors"
    write_safetensors(randomise(small(), seed=5), path, **changes)
    model = randomise(small(), seed=6)
    before = [np.array(to_numpy(weight.value)) for weight in model.weights]
    with pytest.raises(WeightsError, match=message) as raised:
        load_weights(model, path)
    assert "broken.safetensors" in str(raised.value)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(weight.value), value)


def test_no_reading_before_the_gate(monkeypatch, tmp_path):
    write_safetensors(randomise(small()), tmp_path / "wide.safetensors", **BROKEN["misshapen"][0])
    monkeypatch.setattr("convnext_keras.loading._read", None)
    with pytest.raises(WeightsError, match="does not fit"):
        load_weights(small(), tmp_path / "wide.safetensors")


def test_same_shapes_in_another_order_are_told_apart(tmp_path):
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


def test_a_model_built_on_ours_is_met_strictly():
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
    write_safetensors(model, path) if form == "safetensors" else model.save_weights(path)
    assert path.stat().st_size > 100e6
    peak = []
    read = loading._read

    def measured(*arguments):
        array = read(*arguments)
        peak.append(anonymous_bytes())
        return array

    monkeypatch.setattr(loading, "_read", measured)
    gc.collect()
    before = anonymous_bytes()
    load_weights(model, path)
    largest = 4 * max(np.prod(weight.shape) for weight in model.weights)
    assert max(peak) - before < largest + 50e6
