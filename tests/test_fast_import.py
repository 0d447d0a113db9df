import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backends import BACKEND

from convnext_keras.fast_import import BACKENDS, UNUSED_PACKAGES

COMMAND = Path(sys.executable).with_name("convnext-keras")
# A program that finds none of the packages in its first argument; the second one is what it runs.
HIDING = """
import sys
from importlib.machinery import PathFinder

hidden, code, *sys.argv[1:] = sys.argv[1].split(","), *sys.argv[2:]

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
exec(code)
"""
RUN_COMMAND = f"""
import runpy
sys.argv[0] = {str(COMMAND)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(code, *arguments, hidden=(), **environment):
    """Runs code in a new process that does not find the hidden packages, without a choice of a backend."""
    inherited = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    words = [sys.executable, "-c", HIDING, ",".join(hidden), code, *arguments]
    return subprocess.run(
        words, env={**inherited, "CONVNEXT_KERAS_LEAN": "0", **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def home(tmp_path):
    """A new home of Keras."""
    return {"KERAS_HOME": str(tmp_path)}


SELECT = """
from convnext_keras import fast_import
sys.stdout.write(fast_import.select_backend())
"""
SELECT_FOR_THE_COMMAND = f"sys.argv[0] = 'convnext-keras'\n{SELECT}"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("installed", "selected", "notice"),
    [
        (["tensorflow"], "tensorflow", ""),
        (["torch"], "torch", ""),
        (["openvino"], "openvino", ""),
        (["tensorflow", "jax", "torch"], "tensorflow", ""),
        (["jax", "torch", "openvino"], "jax", "using jax (also installed: torch, openvino)"),
        (["torch", "openvino"], "torch", "using torch (also installed: openvino)"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_select_backend_without_a_choice(installed, selected, notice, home):
    hidden = {*BACKENDS} - {*installed}
    done = run(SELECT_FOR_THE_COMMAND, hidden=hidden, **home)
    assert done.stdout == selected, done.stderr
    assert notice in done.stderr
    assert len(done.stderr.splitlines()) == bool(notice)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("keras_json", "hidden", "selected"),
    [
        ({"backend": "torch"}, (), "torch"),
        ({"backend": "tensorflow"}, ("tensorflow",), "jax"),  # Keras itself wrote it
        ({}, ("tensorflow", "jax"), "torch"),
        ("damaged", ("tensorflow",), "jax"),
    ],
    ids=["named", "written by Keras", "without backend", "damaged"],
)
def test_select_backend_reads_keras_json(keras_json, hidden, selected, tmp_path, home):
    (tmp_path / "keras.json").write_text(json.dumps(keras_json))
    done = run(SELECT_FOR_THE_COMMAND, hidden=hidden, **home)
    assert done.stdout == selected, done.stderr


@pytest.mark.any_backend
@pytest.mark.parametrize("code", ["import convnext_keras", RUN_COMMAND], ids=["import", "command"])
@pytest.mark.parametrize(
    ("hidden", "environment", "words"),
    [
        (BACKENDS, {}, ("No Keras backend is installed", "pip install 'convnext-keras[jax]'")),
        (("jax",), {"KERAS_BACKEND": "jax"}, ("KERAS_BACKEND selects jax", "'convnext-keras[jax]'", "torch")),
        (("torch",), {"keras.json": "torch"}, ("keras.json selects torch", "'convnext-keras[torch]'", "jax")),
    ],
    ids=["none installed", "variable", "keras.json"],
)
def test_a_missing_backend_is_one_sentence(code, hidden, environment, words, tmp_path, home):
    if "keras.json" in environment:
        (tmp_path / "keras.json").write_text(json.dumps({"backend": environment["keras.json"]}))
        environment = {}
    done = run(code, "models", hidden=hidden, **environment, **home)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert all(word in last for word in words), done.stderr
    if code == RUN_COMMAND:
        assert done.stderr == f"{last}\n"
        assert last.startswith("convnext-keras: ")


@pytest.mark.slow
def test_the_one_installed_backend_is_used(home):
    others = {*BACKENDS} - {BACKEND}
    done = run("import convnext_keras, keras\nsys.stdout.write(keras.backend.backend())", hidden=others, **home)
    assert done.stdout == BACKEND, done.stderr


WITHOUT_KERAS = """
import contextlib, io, json
sys.argv[0] = "convnext-keras"
from convnext_keras import cli

statuses = []
for line in json.loads(sys.argv[1]):
    sys.argv[1:] = line.split()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            cli.main()
        except SystemExit as end:
            statuses.append(end.code)
for name in ("keras", "tensorflow", "jax", "torch", "openvino"):
    assert name not in sys.modules, name
sys.stdout.write(json.dumps(statuses))
"""


@pytest.mark.any_backend
def test_help_and_usage_errors_import_no_keras():
    from convnext_keras.cli import COMMANDS

    helps = ["--help", "--version", "--show-completion bash", *(f"{name} --help" for name in COMMANDS)]
    errors = ["classify --wieghts x", "train --epochs 3", "fetch", "no-such-command", "serve --port no"]
    done = run(WITHOUT_KERAS, json.dumps([*helps, *errors]), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert json.loads(done.stdout or "[]") == [*[0] * len(helps), *[2] * len(errors)], done.stderr


@pytest.mark.any_backend
def test_completion_imports_no_keras():
    code = (
        "import atexit\natexit.register(lambda: sys.stderr.write(f\"{'keras' in sys.modules}\"))\n"
        "sys.argv = ['convnext-keras']\nfrom convnext_keras import cli\ncli.main()"
    )
    words = {"_CONVNEXT_KERAS_COMPLETE": "complete_bash", "COMP_WORDS": "convnext-keras cla", "COMP_CWORD": "1"}
    done = run(code, **words)
    assert "classify" in done.stdout
    assert done.stderr == "False"


MODULES = """
sys.argv = ["notebook"]
import convnext_keras
sys.stdout.write(" ".join(sys.modules))
"""


@pytest.mark.slow
def test_the_command_imports_no_unused_packages():
    code = "sys.argv = ['convnext-keras', 'models', '--json']\nfrom convnext_keras import cli\ntry:\n    cli.main()\n"
    code += "except SystemExit:\n    sys.stderr.write(' '.join(sys.modules))"
    modules = run(code, KERAS_BACKEND=BACKEND).stderr.split()
    assert "keras" in modules
    assert not {*modules} & {*UNUSED_PACKAGES, *BACKENDS} - {BACKEND}


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("lean", [0, 1])
def test_other_programs_import_keras_unchanged_unless_they_ask(lean):
    pytest.importorskip("sklearn")
    afterwards = "\nimport sklearn, keras\nsys.stderr.write(str(keras.layers.Dense(2).units))"
    done = run(MODULES + afterwards, KERAS_BACKEND=BACKEND, CONVNEXT_KERAS_LEAN=str(lean))
    assert ("sklearn" in done.stdout.split()) != bool(lean)
    assert done.stderr.endswith("2")
