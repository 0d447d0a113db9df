"""Ten thousand damaged descriptions, headers and index folders: only the library's own errors."""

import json
import random

import numpy as np
import pytest
from backends import randomize

from convnext_keras import ConvNeXt, WeightsError, clip, hub, retrieval, save_pretrained
from convnext_keras.checkpoints.formats import open_weights

pytestmark = [pytest.mark.any_backend, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FORMATS = {"timm": "config.json", "transformers": "config.json", "keras": "convnext_keras.json"}
PIECES = [b"", b"null", b"-1", b"1e999", b"[]", b"{}", b'"x"', b"\x00", b"\xff\xfe", b"9" * 40, b"true", b","]
ODD_VALUES = [None, -1, 0, 10**30, 1e308, True, "x", "", [], {}, [None], [[1]], {"a": None}, "\ud800"]


def damaged(content, draw):
    """Bytes with some pieces put in, taken out or doubled."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(changed) + 1)
        if draw.random() < 0.6:
            changed[place : place + draw.randint(0, 8)] = draw.choice(PIECES)
        elif draw.random() < 0.5:
            del changed[place : place + draw.randint(1, 60)]
        else:
            changed[place:place] = changed[place : place + draw.randint(1, 60)]
    return bytes(changed)


def with_odd_value(value, draw):
    """JSON with one value in it replaced by an odd one, or taken out."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice([*value])
        rest = {name: item for name, item in value.items() if name != key}
        return rest if draw.random() < 0.1 else {**rest, key: with_odd_value(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], with_odd_value(value[place], draw), *value[place + 1 :]]
    return draw.choice(ODD_VALUES)


@pytest.fixture(scope="module")
def model():
    return randomize(ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), classes=3, weights=None, input_shape=(32, 32, 3)))


@pytest.mark.parametrize("format", FORMATS)
def test_mutated_configs_are_rejected(format, model, tmp_path):
    save_pretrained(model, tmp_path / "saved", format)
    file = tmp_path / "saved" / FORMATS[format]
    content, draw, read = file.read_bytes(), random.Random(0), 0
    for number in range(2_000):
        if number % 2:
            file.write_bytes(damaged(content, draw))
        else:
            file.write_text(json.dumps(with_odd_value(json.loads(content), draw)))
        try:
            read += hub.load_model_info(str(tmp_path / "saved")) is not None
        except WeightsError as error:
            assert str(tmp_path / "saved") in str(error)  # noqa: PT017 - the error names the file
        except ValueError as error:
            assert "saved" in str(error) or "name must be" in str(error)  # noqa: PT017
    assert read < 1_900


@pytest.mark.parametrize("suffix", [".safetensors", ".weights.h5"])
def test_mutated_headers_are_rejected(suffix, model, tmp_path):
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_pretrained(model, tmp_path / "saved", "timm")
        content = (tmp_path / "saved" / "model.safetensors").read_bytes()
    else:
        model.save_weights(file)
        content = file.read_bytes()
    draw = random.Random(1)
    head = content[:4_000]
    for _ in range(1_500):
        file.write_bytes(damaged(head, draw) + content[4_000:])
        try:
            with open_weights(file) as opened:
                for name in opened.headers:
                    opened.read(name)
        except WeightsError as error:
            assert file.name in str(error)  # noqa: PT017


def test_mutated_indexes_are_rejected(tmp_path):
    shapes = clip.create_model("convnext_mini.shapes")
    index = retrieval.InMemoryIndex(shapes)
    index.add(np.zeros((3, 8, 8, 3), "uint8"), names=["a", "b", "c"])
    index.save(tmp_path / "index")
    files = {path: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    draw = random.Random(2)
    for _ in range(1_000):
        path = draw.choice([*files])
        path.write_bytes(damaged(files[path], draw))
        try:
            retrieval.InMemoryIndex.load(tmp_path / "index", shapes)
        except WeightsError as error:
            assert "0000" in str(error)  # noqa: PT017
        path.write_bytes(files[path])
