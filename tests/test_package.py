"""Checks of the whole package: names, imports, language, documents."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backends import BACKEND
from typer.testing import CliRunner

import convnext_keras
from convnext_keras.checkpoints import BUNDLED_WEIGHTS_DIR
from convnext_keras.cli import COMMANDS, app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "convnext_keras"
MODULES = sorted(
    str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py") if path.stem != "__init__"
)


@pytest.mark.any_backend
def test_every_package_has_tests():
    for package in sorted({module.split("/")[0] for module in MODULES if "/" in module}):
        assert list((ROOT / "tests" / package).glob("test_*.py")), package


RECORDS = {
    "ExportResult",
    "FORMATS",
    "is_exported_model",
    "is_exported_clip",
    "get_or_export_clip",
    "output_names",
    "CLIP_FORMATS",
    "PRECISIONS",
    "DualEncoder",
    "InterpolationResult",
    "CLIP_CONFIG",
    "TRAINING_PRESETS",
    "ParamGroup",
    "TrainingResult",
    "CrossValidationResult",
    "LearningRateTest",
    "save_training_result",
    "CLIPConfig",
    "SearchResult",
    "ImageIndex",
    "JobSummary",
    "RematModel",
    "METHODS",
    "HeatMap",
    "grad_cam",
    "layer_cam",
    "occlusion",
    "Prediction",
    "SimilarityScores",
    "CLIPTextConfig",
    "interpolate_weights",
    "SegmentationConfig",
    "Segmenter",
    "is_segmentation_model",
    "label_image",
    "SegmentationResult",
    "evaluate_segmentation",
    "save_segmentation_result",
    "PixelAccuracy",
    "SegmentationLoss",
}


@pytest.mark.parametrize(
    "package",
    [
        convnext_keras,
        convnext_keras.clip,
        convnext_keras.export,
        convnext_keras.training,
        convnext_keras.distributed,
        convnext_keras.explain,
        convnext_keras.retrieval,
        convnext_keras.segmentation,
    ],
)
def test_exported_names_are_listed_and_documented(package):
    names = package.__all__  # in the linter's order
    assert len(names) == len({*names})
    public = {name for name in vars(package) if not name.startswith("_")}
    rooms = {part for module in MODULES for part in module.split("/")}
    assert public - set(names) <= {*rooms, "data"}
    for name in set(names) - RECORDS - {"clip", "segmentation", "training"}:
        assert "Example:" in (inspect.getdoc(getattr(package, name)) or ""), name


def test_dir_lists_public_names_only():
    names = {*dir(convnext_keras)}
    assert {*convnext_keras.__all__, "distributed", "explain", "export", "retrieval", "server"} <= names
    assert not {"surgery", "files", "convnext"} & names


# Words that the language rules in CONTRIBUTING.md exclude, and the words to use instead.
EXCLUDED = {
    r"\b[Pp]ictures?\b": "image",
    r"^(What|Whatever|Whether|Where|From|To|Of|In|By)\b": "a verb or a noun first",
    r"\blies?\b|\bstands?\b": "is stored, appears",
    r"whole or not at all": "atomically",
    r"\btells?\b|\btold\b": "reports, returns",
    r"\bso many\b|\bas many\b|\bfewest\b": "number, minimum",
    r"\b[Ll]icence|\b[Nn]ormalis|\b[Aa]rtefact|\b[Gg]rey\b|\b[Cc]olour": "American spelling",
}


def excluded_words(text):
    return [f"{word}: {text[:60]}" for word in EXCLUDED if re.search(word, text)]


SOURCES = [
    path for part in ("convnext_keras", "scripts", "benchmarks", "tests") for path in (ROOT / part).rglob("*.py")
]


@pytest.mark.any_backend
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_keep_the_language_rules(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    assert [words for text in docstrings for words in excluded_words(text)] == []


@pytest.mark.any_backend
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_keeps_the_language_rules(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert excluded_words(result.output) == []


@pytest.mark.slow
def test_importing_brings_no_other_backend():
    others = {"tensorflow", "jax", "torch", "openvino"} - {BACKEND}
    code = "import sys, keras; known = set(sys.modules); import convnext_keras; print(*sys.modules.keys() - known)"
    brought = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "convnext_keras" in brought
    assert not others & set(brought)


OPTIONAL = ("export/", "distributed/", "retrieval/lance")  # modules whose examples need packages of an extra


def marked(module):
    """Examples run once, those of the backends under their own backend."""
    marks = [] if module.startswith("backend/") else [pytest.mark.any_backend]
    return pytest.param(module, marks=[*marks, *[pytest.mark.integration] * module.startswith(OPTIONAL)])


# OpenVINO looks at the machine in a child process when it is imported, which JAX warns of.
@pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")
@pytest.mark.parametrize("module", [marked(module) for module in MODULES])
def test_examples_in_docstrings(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(BUNDLED_WEIGHTS_DIR)
    if module.startswith("training/") and BACKEND == "openvino":
        pytest.skip("OpenVINO only infers")
    if module.startswith("backend/") and module not in ("backend/common", f"backend/{BACKEND}"):
        pytest.skip("imported under its own backend only")
    tested = importlib.import_module(f"convnext_keras.{module.replace('/', '.')}")
    names = {**vars(tested), **{name: getattr(convnext_keras, name) for name in convnext_keras.__all__}}
    names |= {"keras": keras, "np": np}
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=options)
    # The larger constructors take long to build.
    large = re.compile(r".*(Small|Base|Large|Huge)|.*CLIPConvNeXt.+")
    examples = [row for row in finder.find(tested, globs=names) if not large.fullmatch(row.name)]
    for example in examples:
        runner.run(example)
    assert runner.summarize().failed == 0


@pytest.mark.any_backend
def test_code_of_the_readme(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    assert "label='blue'" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch makes models without numbers")
def test_tables_of_variants():
    import model_table

    page = (ROOT / "docs" / "variants.md").read_text()
    assert model_table.table() in page
    assert model_table.clip_table() in page
