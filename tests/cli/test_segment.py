"""Commands that meet a segmentation model."""

import json

import pytest
from make_hub_references import HUB
from typer.testing import CliRunner

from convnext_keras.cli import app

pytestmark = pytest.mark.any_backend
IMAGE, FOLDER = str(HUB / "image.png"), str(HUB / "upernet_v1")


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result, str(result.exception or "")


@pytest.mark.parametrize("command", ["classify", "explain"])
@pytest.mark.parametrize("name", ["fpn_convnext_mini.shapes", FOLDER])
def test_other_commands_name_the_right_one(command, name):
    _, error = run(command, IMAGE, "--weights", name)
    assert "is a segmentation model. Use 'convnext-keras segment'" in error


def test_a_classifier_is_not_segmented():
    _, error = run("segment", IMAGE, "--weights", "convnext_mini.digits")
    assert "is not for segmentation" in error


def test_repositories_are_described():
    result, _ = run("inspect", FOLDER, "--json")
    facts = json.loads(result.stdout)
    assert (facts["decoder"], facts["hidden_size"], facts["pool_scales"]) == ("upernet", 16, [1, 2, 3, 6])
    assert facts["classes"].startswith("5 a red fox")


def test_weight_sets_are_listed():
    result, _ = run("models", "upernet*", "--segmentation", "--json")
    rows = json.loads(result.stdout)
    assert [row["mean_iou"] for row in rows] == ["46.11", "48.56", "48.71", "53.16", "53.58"]
    assert {row["license"] for row in rows} == {"mit"}


def test_windows_and_json(tmp_path):
    result, _ = run("segment", IMAGE, "--weights", FOLDER, "--window", 64, "--stride", 40, "--json")
    (row,) = json.loads(result.stdout)
    assert sum(row["areas"].values()) == pytest.approx(1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.png").write_bytes((HUB / "image.png").read_bytes())
    _, error = run("segment", tmp_path, "--weights", FOLDER, "--output", tmp_path / "maps")
    assert "would replace each other" in error
