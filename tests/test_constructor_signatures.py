"""Signatures of the constructors: those of keras.applications, with the registry's default weights."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from waiting import TIMEOUT

import convnext_keras
from convnext_keras import ConvNeXt, ConvNeXtTiny, checkpoints, clip
from convnext_keras.configs import ConvNeXtConfig, ConvNeXtOptions

pytestmark = pytest.mark.any_backend

CALLS = Path(__file__).with_name("calls_for_the_type_checker.py")
CONSTRUCTORS = [name for name in convnext_keras.__all__ if name.startswith("ConvNeXt") and name != "ConvNeXt"]
CLIP_CONSTRUCTORS = [name for name in clip.__all__ if name.startswith("CLIPConvNeXt") and name != "CLIPConvNeXt"]


def parameters(function):
    """Kind and default of each argument by its name."""
    return {name: (row.kind, row.default) for name, row in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_differ_in_weights_and_name_only(name):
    own, others = parameters(getattr(convnext_keras, name)), parameters(ConvNeXtTiny)
    assert list(own) == list(others)
    assert {key for key in own if own[key] != others[key]} <= {"weights", "name"}
    assert own["weights"][1] == checkpoints.default_weight_set(own["name"][1]).tag


@pytest.mark.parametrize("name", CLIP_CONSTRUCTORS)
def test_clip_constructors_differ_in_weights_and_name_only(name):
    own, others = parameters(getattr(clip, name)), parameters(clip.CLIPConvNeXtBaseW)
    assert list(own) == list(others)
    assert {key for key in own if own[key] != others[key]} <= {"weights", "name"}
    variant = own["name"][1].removeprefix("clip_")
    assert own["weights"][1] == checkpoints.default_weight_set(variant, checkpoints.CLIP_REGISTRY).tag


@pytest.mark.parametrize("size", ["Tiny", "Small", "Base", "Large", "XLarge"])
def test_first_arguments_are_those_of_keras_applications(size):
    ours = parameters(getattr(convnext_keras, f"ConvNeXt{size}"))
    keras_own = parameters(getattr(keras.applications, f"ConvNeXt{size}"))
    assert list(ours.items())[: len(keras_own)] == list(keras_own.items())
    assert all(kind == inspect.Parameter.KEYWORD_ONLY for kind, _ in list(ours.values())[len(keras_own) :])


@pytest.mark.parametrize(
    ("general", "specific"), [(ConvNeXt, ConvNeXtTiny), (clip.CLIPConvNeXt, clip.CLIPConvNeXtBase)]
)
def test_general_constructors_have_the_same_defaults(general, specific):
    of_general = {name: default for name, (_, default) in parameters(general).items()}
    for name, (_, default) in parameters(specific).items():
        assert name in of_general
        assert name in ("weights", "name") or of_general[name] == default, name


def test_options_are_the_attributes_of_a_config_with_a_default():
    fields = {
        name: kind for name, kind in ConvNeXtConfig.__annotations__.items() if name in ConvNeXtConfig._field_defaults
    }
    assert ConvNeXtOptions.__annotations__ == fields


@pytest.mark.slow
def test_type_checker_finds_the_wrong_calls_only(tmp_path):
    shutil.copy(CALLS, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(CALLS.parents[1])]}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    found = {(row["range"]["start"]["line"] + 1, row.get("rule")) for row in diagnostics}
    lines = enumerate(CALLS.read_text().splitlines(), start=1)
    expected = {(number, rule[1]) for number, line in lines if (rule := re.search(r"# (report\w+)", line))}
    assert found == expected
    assert len(expected) == 12
