"""`predict` gives what a direct call gives, also after the weights, their values or the shapes changed."""

import sys

import keras
import numpy as np
import pytest
from backends import BACKEND, outputs, randomize

from convnext_keras import ConvNeXt, feature_extractor

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "weights": None, "classes": 5}
CLOSE = 2e-2 if BACKEND == "openvino" else 1e-5  # whose `predict` computes in bfloat16 on some processors


def new_model(**options):
    return randomize(ConvNeXt(**SIZES, **{"input_shape": (None, None, 3), **options}))


def pixels(rows=3, size=32, kind="float32"):
    return np.random.default_rng(rows).uniform(0, 255, (rows, size, size, 3)).astype(kind)


def check(model, *inputs):
    for each in inputs:
        expected = outputs(model, each.astype("float32"))
        found = model.predict(each, verbose=0)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=CLOSE)


@pytest.mark.skipif(BACKEND == "jax", reason="Keras' own predict")
def test_any_number_of_rows_sizes_and_types_in_any_order():
    model = new_model()
    few, many, large, wide = pixels(), pixels(40), pixels(2, 48), pixels(3, 32, "float64")
    check(model, few, few, few, many, large, few, large, wide, wide, wide, many, pixels(3, 32, "uint8"), few)
    np.testing.assert_allclose(model.predict(few, batch_size=2, verbose=0), model.predict(few, verbose=0), atol=CLOSE)


def test_predict_uses_new_weights():
    model, few = new_model(), pixels()
    check(model, few, few, few)
    randomize(model, seed=2)
    check(model, few, few, few, few)
    if BACKEND == "openvino":
        pytest.skip("OpenVINO only infers")
    before = model.predict(few, verbose=0)
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    model.fit(few, np.array([0, 1, 2]), epochs=1, verbose=0)
    check(model, *[few] * 5)
    assert np.abs(model.predict(few, verbose=0) - before).max() > 1e-4
    dense = model.layers[-1]
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.random.default_rng(0).normal(0, 1, dense.lora_kernel_b.shape))
    model.compile()
    check(model, *[few] * 5)


def test_predict_of_features_and_nested_models():
    backbone = new_model(include_top=False, input_shape=(32, 32, 3))
    extractor = feature_extractor(backbone, (1, 3))
    for _ in range(5):
        rows = keras.tree.flatten(extractor.predict(pixels(), verbose=0))
        for row, expected in zip(rows, keras.tree.flatten(extractor(pixels())), strict=True):
            np.testing.assert_allclose(row, keras.ops.convert_to_numpy(expected), atol=50 * CLOSE)


@pytest.mark.skipif(BACKEND != "torch", reason="others compile what they run")
def test_later_batches_of_a_shape_run_without_layers(monkeypatch):
    model, few = new_model(), pixels()
    for _ in range(3):
        model.predict(few, verbose=0)
    expected = model.predict(few, verbose=0)
    monkeypatch.setattr(type(model), "call", None)
    np.testing.assert_array_equal(model.predict(few, verbose=0), expected)
    with pytest.raises(TypeError):
        model.predict(pixels(2), verbose=0)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.proxy_tensor", None)  # where PyTorch has it no more
    other = new_model()
    for _ in range(5):
        np.testing.assert_array_equal(other.predict(few, verbose=0), expected)
    monkeypatch.undo()
    monkeypatch.setattr("convnext_keras.backend.torch.MAX_TRACED_SHAPES", 3)
    for size in (48, 64, 80, 96):  # More than are recorded.
        check(model, *[pixels(1, size)] * 4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others start at once")
def test_one_batch_needs_no_pipeline(monkeypatch):
    model, few = new_model(), pixels()
    expected = model.predict(few, verbose=0)
    monkeypatch.setattr(keras.Model, "predict", None)
    np.testing.assert_array_equal(model.predict(few, verbose=0), expected)
    with pytest.raises(TypeError):
        model.predict(few, batch_size=2, verbose=0)


@pytest.mark.skipif(BACKEND != "openvino", reason="others compile in other ways")
def test_openvino_compiles_once_for_each_shape_and_for_other_values(monkeypatch):
    import openvino

    compile_model, compiled = openvino.compile_model, []
    monkeypatch.setattr(openvino, "compile_model", lambda *given: compiled.append(given) or compile_model(*given))
    model = new_model()
    for images, count in ((pixels(), 1), (pixels(40), 1), (pixels(2, 48), 2), (pixels(), 2), (pixels(2, 64), 3)):
        model.predict(images, verbose=0)
        assert len(compiled) == count
    randomize(model, seed=2)
    model.predict(pixels(2, 64), verbose=0)
    assert len(compiled) == 4
