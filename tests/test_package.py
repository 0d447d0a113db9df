"""What holds for the whole package: names, imports, documents."""

import ast
import collections
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from conftest import BACKEND, needs_training, randomise
from keras.src.legacy.saving import legacy_h5_format

import convnext_keras
from convnext_keras import ConvNeXtTiny, download
from convnext_keras.clip.models import CLIP_VARIANTS
from convnext_keras.labels import LABEL_SETS, class_names
from convnext_keras.layouts import LAYOUTS
from convnext_keras.preprocessing import INTERPOLATIONS, STATISTICS
from convnext_keras.variants import VARIANTS
from convnext_keras.weights import BUNDLED, RESTRICTED, registry

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "convnext_keras"
MODULES = sorted(
    str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py") if path.stem != "__init__"
)
LEAVES = ("torch_kernels", "preprocessing", "labels", "readers", "download", "layouts", "variants", "arguments")
LEAVES += ("clip/tokenizer", "clip/inference")
ALLOWED_IMPORTS = {
    **{module: set() for module in LEAVES},
    "matching": {"layouts"},
    "layers": {"kernels"},
    "kernels": {"torch_kernels"},
    "weights": {"download", "readers", "preprocessing"},
    "loading": {"download", "matching", "readers", "weights"},
    "convnext": {"arguments", "layers", "loading", "preprocessing", "variants", "weights"},
    "models": {"convnext", "variants", "weights"},
    "folding": {"layers"},
    "clip/text_tower": {"clip/tokenizer", "layers"},
    "clip/model": {"clip/inference", "clip/tokenizer", "layers", "preprocessing"},
    "clip/models": {
        "arguments",
        "clip/model",
        "clip/text_tower",
        "convnext",
        "layers",
        "loading",
        "variants",
        "weights",
    },
    "clip/training": {"clip/model", "layers", "preprocessing"},
    "clip/zero_shot": {"clip/model", "layers"},
    "clip/retrieval": {"clip/model", "preprocessing", "readers"},
    "sheets": {"preprocessing", "weights"},
    "server/errors": set(),
    "server/limits": set(),
    "server/bodies": set(),
    "server/metrics": set(),
    "server/items": {"server/errors", "server/limits"},
    "server/fetching": {"server/errors"},
    "server/pictures": {"server/errors", "server/limits"},
    "server/batching": {"server/errors"},
    "server/security": {"server/errors", "server/limits"},
    "server/engine": {
        "clip",
        "clip/inference",
        *(f"server/{name}" for name in ("batching", "errors", "fetching", "items", "limits", "metrics", "pictures")),
    },
    "server/routes": {f"server/{name}" for name in ("bodies", "engine", "errors", "items", "limits")} | {"server"},
    "server/app": {
        "clip",
        "demo",
        *(f"server/{name}" for name in ("engine", "errors", "fetching", "limits", "metrics", "routes", "security")),
    },
    "server/run": {f"server/{name}" for name in ("app", "fetching", "security")},
}


def imports(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "convnext_keras":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("convnext_keras."):
            yield node.module.removeprefix("convnext_keras.").replace(".", "/")


@pytest.mark.parametrize("module", ALLOWED_IMPORTS)
def test_imports_point_one_way(module):
    assert set(imports(module)) <= ALLOWED_IMPORTS[module]


def test_every_module_has_a_rule():
    assert set(MODULES) == {*ALLOWED_IMPORTS, "cli", "demo"}


RECORDS = {"ClipVariant", "Hit", "Prediction", "SimilarityScores", "TextTower", "interpolate"}


@pytest.mark.parametrize("package", [convnext_keras, convnext_keras.clip])
def test_exported_names_are_listed_sorted_and_documented(package):
    names = package.__all__
    assert names == sorted(names)
    public = {name for name in vars(package) if not name.startswith("_")}
    assert public - set(names) <= {*(module.split("/")[-1] for module in MODULES), "data", "server"}
    for name in set(names) - RECORDS - {"clip"}:
        assert "Example:" in inspect.getdoc(getattr(package, name)), name


def test_importing_brings_no_other_backend():
    others = {"tensorflow", "jax", "torch", "openvino"} - {BACKEND}
    code = "import sys, convnext_keras; print(*sys.modules)"
    by_keras = subprocess.check_output(
        [sys.executable, "-c", code.replace("convnext_keras", "keras")], text=True
    ).split()
    ours = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not (others & set(ours)) - set(by_keras)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module, monkeypatch):
    monkeypatch.chdir(ROOT)
    if module == "torch_kernels" and BACKEND != "torch":
        pytest.skip("imported under PyTorch only")
    tested = importlib.import_module(f"convnext_keras.{module.replace('/', '.')}")
    names = {**vars(tested), **{name: getattr(convnext_keras, name) for name in convnext_keras.__all__}}
    names |= {"keras": keras, "np": np}
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=options)
    # The constructors share one docstring, and the larger ones take long.
    large = re.compile(r".*(Small|Base|Large|Huge)|.*CLIPConvNeXt.+")
    examples = [row for row in finder.find(tested, globs=names) if not large.fullmatch(row.name)]
    for example in examples:
        runner.run(example)
    assert runner.summarize().failed == 0


COUNTS = {len(class_names(labels)): labels for labels in LABEL_SETS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_row_of_the_registry_misses_a_field(variant):
    for row in (row for row in registry().values() if row.variant == variant):
        assert all([row.tag, row.layout, row.file, row.license, row.source, row.megabytes]), row
        assert row.layout in {*LAYOUTS, "Keras .h5", "convnext_keras"}, row
        assert row.labels == COUNTS.get(row.classes, ""), row
        assert row.statistics in STATISTICS, row
        assert row.interpolation in INTERPOLATIONS, row
        assert row.resize in ("shortest", "squash"), row
        assert 32 <= row.input_size <= 512, row
        assert 0 < row.crop <= 1, row
        assert bool(row.test_input_size) == bool(row.test_crop), row
        # Accuracies are published for classifiers of ImageNet-1k, and measured by us for our own.
        assert bool(row.top1) == (row.labels in ("imagenet-1k", "digits")), row
        assert not row.top1 or 40 < float(row.top1) < 100, row
        if row.repository:
            assert row.url + row.sha256 + row.headless_url == "", row
            assert row.source == f"https://huggingface.co/{row.repository}", row
        else:
            assert re.fullmatch(r"[0-9a-f]{64}", row.sha256), row
            assert bool(row.headless_url) == bool(row.headless_sha256), row
            assert row.url.startswith("https://") or download.file_sha256(BUNDLED / row.file) == row.sha256, row


def test_the_registry_is_complete():
    """Keras' five, timm's 101, the hub's 37 of Meta, and this project's."""
    rows = registry().values()
    assert len({row.name for row in rows}) == len(rows)
    by_layout = collections.Counter(row.layout for row in rows)
    assert by_layout["Keras .h5"] == 5
    assert by_layout["timm"] == 101
    assert by_layout["transformers"] + by_layout["transformers DINOv3"] == 37
    clip_rows = registry("clip").values()
    assert len(clip_rows) == len({row.name for row in clip_rows}) == 13
    assert all(row.license and row.source and row.file and row.top1 and row.megabytes for row in clip_rows)
    assert {row.variant for row in clip_rows} == set(CLIP_VARIANTS)
    assert {row.license for row in rows} <= {"apache-2.0", "mit", *RESTRICTED}
    trained = {row.variant for row in rows}
    untrained = {"convnext_atto_rms", "convnextv2_small"} | {name for name in VARIANTS if "isotropic" in name}
    assert trained == set(VARIANTS) - untrained


def test_keras_files_are_those_that_keras_names():
    from keras.src.applications.convnext import BASE_WEIGHTS_PATH, WEIGHTS_HASHES

    for variant, hashes in WEIGHTS_HASHES.items():
        row = registry()[f"{variant}.imagenet"]
        assert (row.sha256, row.headless_sha256) == hashes
        assert row.url == f"{BASE_WEIGHTS_PATH}{variant}.h5"
        assert row.headless_url == f"{BASE_WEIGHTS_PATH}{variant}_notop.h5"


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """Random stand-ins for Keras' two files of ConvNeXt-Tiny."""
    folder = tmp_path_factory.mktemp("tiny")
    for top in (True, False):
        model = randomise(ConvNeXtTiny(weights=None, include_top=top))
        with h5py.File(folder / f"{top}.h5", "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return folder


@pytest.mark.any_backend
@needs_training
def test_code_of_the_readme(tiny_files, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "convnext_keras.loading.fetch",
        lambda row, top: tiny_files / f"{top}.h5" if row.url else BUNDLED / row.file,
    )
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert len(blocks) == 6
    assert "convnext_mini.digits" in capsys.readouterr().out


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch makes models without numbers")
def test_table_of_the_readme():
    import model_table

    readme = (ROOT / "README.md").read_text()
    assert model_table.table() in readme
    assert model_table.clip_table() in readme
