"""Queries, names and files as they are found: long, bracketed, missing."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from convnext_keras import clip, retrieval
from convnext_keras.cli import app
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.explain.targets import ClassTarget
from convnext_keras.hub.class_labels import read_problem_type
from convnext_keras.hub.json_schema import JsonObject
from convnext_keras.problem_types import PROBLEM_TYPES
from convnext_keras.training import ImageDataset, class_prompts

pytestmark = pytest.mark.any_backend
ODD = ["sunset [final].png", "x[bold].png", "plain.png"]


@pytest.fixture
def index(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(ODD):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    made = retrieval.InMemoryIndex(clip.create_model("convnext_mini.shapes"))
    made.add(tmp_path / "photos")
    made.save(tmp_path / "index")
    return tmp_path / "index"


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "400"})


@pytest.mark.filterwarnings("ignore:1 of 1 texts have more")
@pytest.mark.parametrize("query", ["a " * 240, "x" * 480, "a star"])
def test_long_queries_are_texts(query, index):
    assert run("search", index, query).exit_code == 0


def test_missing_query_file_is_searched_as_text_with_a_warning(index):
    assert "There is no file nope.jpg" in run("search", index, "nope.jpg").output


def test_brackets_are_printed_and_missing_files_are_shown(index, tmp_path):
    (tmp_path / "photos" / "plain.png").unlink()
    done = run("search", index, "a star", "--contact-sheet", tmp_path / "found.png")
    assert done.exit_code == 0, done.output
    assert all(name in done.output for name in ODD)
    assert (tmp_path / "found.png").is_file()


def test_classes_are_found_by_name_before_number():
    named = [("a", "10"), ("b", "2"), ("c", "5")]
    target = ClassTarget.__new__(ClassTarget)
    target.names = [name for _, name in named]
    assert [target._resolve_class_index(word, named, 3) for word in ("2", "b", "0", 2)] == [1, 1, 0, 2]


def test_one_class_has_no_softmax():
    assert PROBLEM_TYPES[read_problem_type(JsonObject("config.json", {}), 1)] == "sigmoid"
    assert PROBLEM_TYPES[read_problem_type(JsonObject("config.json", {}), 2)] == "softmax"


def test_fill_color_is_per_channel():
    transform = ImageTransform(4, resize_mode="none", channels=5, fill_color=(1, 2, 3, 4, 5))
    assert transform(np.full((2, 2, 5), 9, "uint8"))[0, 0].tolist() == [1, 2, 3, 4, 5]


def test_other_braces_in_templates_are_text():
    examples = ImageDataset([np.zeros((8, 8, 3), "uint8")] * 2, np.array([0, 1]), ("cat", "dog"))
    assert class_prompts(examples, ["a {} in {style}"]).texts[0] == ("a cat in {style}",)
