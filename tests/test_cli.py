import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from conftest import outputs, randomise, to_numpy
from PIL import Image
from typer.testing import CliRunner

from convnext_keras import create_model, decode_predictions
from convnext_keras.cli import app, held_out_digits, main
from convnext_keras.loading import named_variables
from convnext_keras.preprocessing import Recipe, normalize
from convnext_keras.weights import registry

DIGITS = "convnext_mini.digits"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def digit(tmp_path):
    digits, labels = held_out_digits()
    Image.fromarray(digits[0]).save(tmp_path / "digit.png")
    assert labels[0] == 0
    return tmp_path / "digit.png"


def test_demo(tmp_path):
    result = run("demo", "--output", tmp_path / "picture.png")
    assert "356 of 359 held-out digits right, 99.16 %" in result.stdout
    assert f"Look at {tmp_path}" in result.stdout
    picture = np.asarray(Image.open(tmp_path / "picture.png"))
    green, red = ((picture == colour).all(axis=-1).any() for colour in ((0, 128, 0), (255, 0, 0)))
    assert green
    assert red


def test_classify(digit):
    result = run("classify", digit, "--weights", DIGITS, "--top", 2)
    assert "zero" in result.stdout


def test_classify_as_json(digit):
    rows = json.loads(run("classify", digit, digit, "--weights", DIGITS, "--json").stdout)
    assert [row["image"] for row in rows] == [str(digit)] * 2
    best = rows[0]["predictions"][0]
    assert (best["id"], best["name"]) == ("0", "zero")
    assert best["score"] > 0.5
    assert len(rows[0]["predictions"]) == 5


def listed(*arguments):
    return [row["name"] for row in json.loads(run("models", *arguments, "--json").stdout)]


def test_models():
    assert listed() == list(registry())
    assert listed("*mini*") == [DIGITS]
    assert listed("--license", "cc-by-nc-4.0", "--size", 512) == [
        "convnextv2_huge.fcmae_ft_in22k_in1k_512",
        "convnextv2_huge.hf_22k_512",
    ]
    assert listed("convnext_small.*", "--labels", "imagenet-12k") == ["convnext_small.in12k"]
    assert listed("resnet*") == []
    assert "not for commercial use" in " ".join(run("models").stdout.split())


def test_classify_needs_no_further_options(tmp_path, monkeypatch):
    """A local file stands in for the download; transform, statistics and labels are the weight set's."""
    model = randomise(create_model("test_convnext", weights=None, classifier_activation=None))
    arrays = {key: to_numpy(variable.value) for key, (_, variable) in named_variables(model).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    monkeypatch.setattr("convnext_keras.loading.fetch", lambda row, top: tmp_path / "model.safetensors")
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), "uint8")
    Image.fromarray(picture).save(tmp_path / "photo.png")
    arguments = ("--weights", "test_convnext.r160_in1k", "--json")
    (row,) = json.loads(run("classify", tmp_path / "photo.png", *arguments).stdout)
    recipe = Recipe(160, 0.95, "shortest", "bicubic", "half")
    plain = create_model("test_convnext", weights=None, include_preprocessing=False)
    plain.set_weights(model.get_weights())
    expected = decode_predictions(outputs(plain, normalize(recipe(picture)[None], "half")))[0]
    assert row["predictions"][0]["id"] == expected[0][0]
    assert row["predictions"][0]["score"] == pytest.approx(expected[0][2], rel=0.05)


def test_fetch():
    assert run("fetch", DIGITS).stdout.strip().endswith("convnext_mini.digits.safetensors")


@pytest.mark.parametrize("command", ["demo", "classify", "models", "fetch"])
def test_help_has_an_example(command):
    assert f"convnext-keras {command} " in run(command, "--help").stdout
    assert command in run("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "missing.png", "--weights", DIGITS], "missing.png cannot be read as an image"),
        (["classify", __file__], "cannot be read as an image"),
        (["classify", "x.png", "--weights", "convnext_mini.digit"], "Did you mean 'convnext_mini.digits'"),
        (["fetch", "resnet50"], "'resnet50' is no weight set"),
        (["fetch", "convnext_tiny.imagenet"], "CONVNEXT_KERAS_OFFLINE"),
    ],
)
def test_errors_are_one_sentence_on_standard_error(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convnext-keras", *arguments])
    with pytest.raises(SystemExit, match=message) as raised:
        main()
    assert str(raised.value).startswith("convnext-keras: ")
    assert "\n" not in str(raised.value)


def test_installed_command_exits_with_one(tmp_path):
    code = "from convnext_keras.cli import main; main()"
    command = [sys.executable, "-c", code, "classify", str(tmp_path / "no.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("convnext-keras: ")
