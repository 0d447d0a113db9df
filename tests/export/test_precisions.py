"""Exports of lower precision keep the answers, or are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from backends import BACKEND, outputs, randomize
from test_export import DIGITS, OWN

from convnext_keras import ConvNeXt, clip, create_model, export, samples
from convnext_keras.export import FORMATS

pytestmark = pytest.mark.integration


def digit_images(number):
    return list(samples.load_digits()[0][:number])


REDUCED = [(name, precision) for name in OWN for precision in FORMATS[name].precisions[1:] if precision != "bfloat16"]


@pytest.mark.parametrize(("format", "precision"), REDUCED)
def test_lower_precision_keeps_accuracy(format, precision, tmp_path):
    digits, labels = samples.load_digits()
    model = create_model(DIGITS)
    calibration = list(digits[::4]) if precision == "int8" else None
    path = tmp_path / f"digits{FORMATS[format].suffix}"
    options = {"precision": precision, "calibration_data": calibration, "verify": precision == "int8"}
    written = export.export(model, path, format, **options)
    assert written.size_bytes < (0.95e6 if precision == "float16" else 0.75e6)  # The weights are 1.33 MB in float32.
    assert written.precision == json.loads(Path(f"{path}.json").read_text())["precision"] == precision
    inputs = np.stack([model.pretrained_info.transform(digit) for digit in digits]).astype("float32")
    right = np.mean(export.ExportedModel(path)(inputs).argmax(axis=1) == labels)
    before = np.mean(outputs(model, inputs).argmax(axis=1) == labels)
    assert abs(right - before) <= 0.005


@pytest.mark.skipif(BACKEND != "openvino", reason="OpenVINO's programs")
@pytest.mark.parametrize("batch", [None, 4])
def test_int8_without_biases(batch, tmp_path):
    """OpenVINO leaves sums with zeros out, and then scales before it adds where the number of rows is free."""
    sizes = {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64), "classes": 20, "input_shape": (64, 64, 3)}
    model = randomize(ConvNeXt(**sizes, weights=None, classifier_activation=None))
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(np.zeros(weight.shape))
    images = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3)).astype("uint8")
    path, pixels = tmp_path / "int8.xml", images[:4].astype("float32")
    export.export(model, path, precision="int8", calibration_data=list(images), verify=False, batch_size=batch)
    expected, found = outputs(model, pixels), export.ExportedModel(path)(pixels)
    assert (expected * found).sum() / np.linalg.norm(expected) / np.linalg.norm(found) > 0.99


# The weights are 1.33 MB in float32, and two formats' graphs another megabyte or more.
LARGEST_IN_BFLOAT16 = {"saved_model": 2.2e6, "torch": 2.2e6, "stablehlo": 0.95e6}


@pytest.mark.parametrize("format", [name for name in OWN if "bfloat16" in FORMATS[name].precisions])
def test_bfloat16_keeps_accuracy(format, tmp_path):
    model, shapes = create_model(DIGITS), clip.create_model("shapes")
    pixels = np.stack([model.pretrained_info.transform(digit) for digit in samples.load_digits()[0][::40]]).astype(
        "float32"
    )
    expected = outputs(model, pixels)
    path, text = (tmp_path / f"{name}{FORMATS[format].suffix}" for name in ("digits", "text"))
    written = export.export(model, path, format, precision="bfloat16", verify=format == "torch")
    assert written.size_bytes < LARGEST_IN_BFLOAT16[format]
    np.testing.assert_allclose(export.ExportedModel(path)(pixels), expected, atol=0.05)
    assert (export.ExportedModel(path)(pixels).argmax(axis=1) == expected.argmax(axis=1)).all()
    export.export(shapes.text_encoder, text, format, precision="bfloat16", verify=False)
    vectors = export.ExportedModel(text)(shapes.tokenizer(["a red star", "green"]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (vectors * shapes.encode_text(["a red star", "green"])).sum(axis=1).min() > 0.999


@pytest.mark.any_backend
def test_text_tower_rejects_int8(tmp_path):
    model = clip.create_model("shapes")
    texts = [f"{size} {color} star" for size in ("a", "a big", "one small") for color in ("red", "blue", "yellow")]
    with pytest.raises(ValueError, match="not accurate enough for text encoders. Use precision='int8_weights'"):
        export.export(model.text_encoder, tmp_path / "text.xml", precision="int8", calibration_data=texts)
    for path in (tmp_path / "text.xml", tmp_path / "text.onnx"):
        export.export(model.text_encoder, path, precision="int8_weights", verify=False)
        vectors = export.ExportedModel(path)(model.tokenizer(texts))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        assert (vectors * model.encode_text(texts)).sum(axis=1).min() > 0.999


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "a.xml", "precision": "int8"}, "int8 requires calibration_data: images like"),
        ({"path": "a.xml", "precision": "int4"}, "precision must be 'float32', 'float16', 'int8_weights' or"),
        ({"path": "a.xml", "precision": "bfloat16"}, "precision must be 'float32', 'float16', 'int8_weights' or"),
        ({"path": "a.pt2", "precision": "int8"}, "must be 'float32' or 'bfloat16'. Received: precision='int8'"),
        ({"path": "a.xml", "precision": "int8", "calibration_data": digit_images(15)}, "needs 16 images .* 15"),
        ({"path": "a.xml", "precision": "int8", "calibration_data": ["none.png"] * 20}, "none.png cannot be read"),
        ({"path": "a.xml", "calibration_data": digit_images(20)}, "calibration_data is for precision='int8'"),
        ({"path": "a.xml", "opset": 20}, "opset is for onnx only"),
    ],
)  # fmt: skip
def test_unsupported_precisions_are_rejected(options, message, tmp_path):
    path = tmp_path / options.pop("path")
    with pytest.raises(ValueError, match=message):
        export.export(create_model(DIGITS), path, **options)
    assert not list(tmp_path.iterdir())
