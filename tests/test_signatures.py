"""What editors and type checkers see of the constructors, and what Python sees."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import TIMEOUT

import convnext_keras
from convnext_keras import ConvNeXt, clip
from convnext_keras.clip.constructors import ClipConstructor
from convnext_keras.configs import ConvNeXtConfig, ConvNeXtOptions
from convnext_keras.signatures import Constructor

pytestmark = pytest.mark.any_backend

CALLS = Path(__file__).with_name("calls_for_the_type_checker.py")
CONSTRUCTORS = [name for name in convnext_keras.__all__ if name.startswith("ConvNeXt") and name != "ConvNeXt"]
CLIP_CONSTRUCTORS = [name for name in clip.__all__ if name.startswith("CLIPConvNeXt") and name != "CLIPConvNeXt"]


def parameters(function):
    """Name, kind and default of each, without `self`."""
    rows = inspect.signature(function).parameters.values()
    return [(row.name, row.kind, row.default) for row in rows if row.name != "self"]


@pytest.mark.parametrize("name", [*CONSTRUCTORS, *CLIP_CONSTRUCTORS])
def test_constructors_have_the_signature_that_editors_see(name):
    constructor = getattr(clip if name in CLIP_CONSTRUCTORS else convnext_keras, name)
    stated = parameters((ClipConstructor if name in CLIP_CONSTRUCTORS else Constructor).__call__)
    own = [
        (key, kind, ... if key in ("weights", "name") else default) for key, kind, default in parameters(constructor)
    ]
    assert own == stated
    assert inspect.signature(constructor).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize(("general", "protocol"), [(ConvNeXt, Constructor), (clip.CLIPConvNeXt, ClipConstructor)])
def test_the_general_constructors_take_the_same_with_the_same_defaults(general, protocol):
    of_general = {name: default for name, _, default in parameters(general)}
    for name, _, default in parameters(protocol.__call__):
        assert name in of_general
        assert name in ("weights", "name") or of_general[name] == default, name


def test_options_are_the_attributes_of_a_variant_with_a_default():
    fields = {
        name: kind for name, kind in ConvNeXtConfig.__annotations__.items() if name in ConvNeXtConfig._field_defaults
    }
    assert ConvNeXtOptions.__annotations__ == fields


@pytest.mark.slow
def test_right_and_wrong_calls(tmp_path):
    """Every wrong call is found by the rule in its comment, and no right one is complained of."""
    shutil.copy(CALLS, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(CALLS.parents[1])]}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    told = json.loads(done.stdout)["generalDiagnostics"]
    found = {(row["range"]["start"]["line"] + 1, row.get("rule")) for row in told}
    lines = enumerate(CALLS.read_text().splitlines(), start=1)
    wanted = {(number, rule[1]) for number, line in lines if (rule := re.search(r"# (report\w+)", line))}
    assert found == wanted
    assert len(wanted) == 12
