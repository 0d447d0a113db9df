"""What holds for the whole package: names, imports, documents."""

import ast
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
from backends import BACKEND, needs_training, randomise
from keras.src.legacy.saving import legacy_h5_format

import convnext_keras
from convnext_keras import ConvNeXtTiny
from convnext_keras.checkpoints import BUNDLED
from convnext_keras.checkpoints.download import VerifiedFile

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "convnext_keras"
MODULES = sorted(
    str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py") if path.stem != "__init__"
)
# From the ground up: a floor imports from lower floors only. The modules of a room have an order too.
FLOORS = (
    {"starting"},
    {"arguments", "files", "item_names", "kernels", "labels", "memory"},
    {"images"},
    {"preprocessing"},
    {"augmentation", "batches", "sheets", "variants"},
    {"clip_variants", "initializers", "layers", "names"},
    {"provenance"},
    {"checkpoints"},
    {"hub", "signatures"},
    {"convnext"},
    {"constructors", "features"},
    {"clip"},
    {"deploy", "explain", "training"},
    {"server"},
    {"scale"},
    {"api"},
    {"cli"},
)
ROOMS = {
    "kernels": ("shared", "tensorflow", "jax", "torch", "channels_first", "openvino", "__init__"),
    "checkpoints": (
        *("readers", "shards", "layouts", "download", "registry", "matching"),
        *("loading", "saving", "conversion", "__init__"),
    ),
    "hub": (
        *("fields", "classes", "pixels", "repositories", "descriptions", "timm", "processors", "transformers"),
        *("open_clip", "keras_format", "reading", "architecture", "writing", "tensors", "forms", "cards", "saving"),
        "__init__",
    ),
    "deploy": (
        *("folding", "narrowing", "formats", "writing", "reducing", "runtimes", "calibration", "describing"),
        *("checking", "exporting", "artefacts", "towers", "opening", "__init__"),
    ),
    "training": (
        *("groups", "optimizers", "recipes", "data", "streams", "evaluation", "probe"),
        *("adapters", "starts", "progress", "fitting", "reports", "soups", "pairs", "contrastive", "__init__"),
    ),
    "clip": (
        *("tokenizer", "inference", "embedder", "text_tower", "model", "constructors"),
        *("training", "zero_shot", "vectors", "index", "partitions", "lance", "retrieval", "__init__"),
    ),
    "server": (
        *("errors", "limits", "metrics", "requests", "fetching", "decoding", "batching", "security"),
        *("protocol", "engine", "routes", "about", "app", "run", "__init__"),
    ),
    "explain": ("maps", "asked", "looking", "__init__"),
    "scale": ("sources", "tasks", "outputs", "cluster", "jobs", "parallel", "serve", "__init__"),
    "cli": ("options", "parsing", "weights", "classifiers", "clip", "training", "server", "demo", "__init__"),
}
PUBLIC_ROOMS = {"server", "cli"}  # that use the package as its users do
HEIGHTS = {room: height for height, floor in enumerate(FLOORS) for room in floor}


def imports(path):
    """Modules and rooms of the package that a file imports, and public names as `""`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "convnext_keras":
            yield from (alias.name if alias.name in HEIGHTS else "" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("convnext_keras."):
            target = node.module.removeprefix("convnext_keras.").replace(".", "/")
            inside = [f"{target}/{alias.name}" for alias in node.names if f"{target}/{alias.name}" in MODULES]
            yield from inside or [target]


def order_in_room(room, name):
    return ROOMS[room].index(name.partition("/")[2] or "__init__")


@pytest.mark.any_backend
@pytest.mark.parametrize("module", [*MODULES, *(f"{room}/__init__" for room in ROOMS)])
def test_imports_point_one_way(module):
    room = module.split("/")[0]
    for target in imports(PACKAGE / f"{module}.py"):
        other = target.split("/")[0]
        if other == room:
            assert order_in_room(room, target) < order_in_room(room, module), target
        elif target:
            assert HEIGHTS[other] < HEIGHTS[room], target
        else:
            assert room in PUBLIC_ROOMS


@pytest.mark.any_backend
def test_every_module_has_its_place():
    inside = {f"{room}/{name}" for room, names in ROOMS.items() for name in names if name != "__init__"}
    assert set(MODULES) == inside | (HEIGHTS.keys() - ROOMS.keys())


@pytest.mark.any_backend
def test_every_room_has_tests():
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {"convnext", "names", "features", "layers", "labels", "preprocessing", "batches", "provenance"} <= tested
    for room in ROOMS:
        assert list((ROOT / "tests" / room).glob("test_*.py")), room


RECORDS = {
    "Export",
    "FORMATS",
    "is_artefact",
    "is_exported_clip",
    "exported_for",
    "output_names",
    "ENGINES",
    "PRECISIONS",
    "Embedder",
    "Choice",
    "CLIP_RECIPE",
    "RECIPES",
    "Group",
    "Trained",
    "parts_of",
    "save",
    "ClipVariant",
    "Hit",
    "PictureIndex",
    "Summary",
    "Rematerialized",
    "METHODS",
    "HeatMap",
    "grad_cam",
    "layer_cam",
    "occlusion",
    "Prediction",
    "SimilarityScores",
    "TextTower",
    "interpolate",
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
    ],
)
def test_exported_names_are_listed_and_documented(package):
    names = package.__all__  # in the linter's order
    assert len(names) == len({*names})
    public = {name for name in vars(package) if not name.startswith("_")}
    rooms = {part for module in MODULES for part in module.split("/")}
    assert public - set(names) <= {*rooms, "data"}
    for name in set(names) - RECORDS - {"clip", "training"}:
        assert "Example:" in (inspect.getdoc(getattr(package, name)) or ""), name


@pytest.mark.slow
def test_importing_brings_no_other_backend():
    others = {"tensorflow", "jax", "torch", "openvino"} - {BACKEND}
    code = "import sys, keras; known = set(sys.modules); import convnext_keras; print(*sys.modules.keys() - known)"
    brought = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "convnext_keras" in brought
    assert not others & set(brought)


OPTIONAL = ("deploy/", "scale/", "clip/lance")  # modules whose examples need packages of an extra


def marked(module):
    """What the examples show is tested by name under every backend; they run once, those of kernels under their own."""
    marks = [] if module.startswith("kernels/") else [pytest.mark.any_backend]
    return pytest.param(module, marks=[*marks, *[pytest.mark.integration] * module.startswith(OPTIONAL)])


# OpenVINO looks at the machine in a child process when it is imported, which JAX warns of.
@pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")
@pytest.mark.parametrize("module", [marked(module) for module in MODULES])
def test_examples_in_docstrings(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(BUNDLED)
    if module.startswith("training/") and BACKEND == "openvino":
        pytest.skip("OpenVINO only infers")
    if module.startswith("kernels/") and module not in ("kernels/shared", f"kernels/{BACKEND}"):
        pytest.skip("imported under its own backend only")
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


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """Random stand-ins for Keras' two files of ConvNeXt-Tiny."""
    folder = tmp_path_factory.mktemp("tiny")
    for top in (True, False):
        model = randomise(ConvNeXtTiny(weights=None, include_top=top))
        with h5py.File(folder / f"{top}.h5", "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return folder


@pytest.mark.slow
@pytest.mark.any_backend
@needs_training
def test_code_of_the_readme(tiny_files, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "convnext_keras.checkpoints.fetch",
        lambda row, top=True: VerifiedFile(tiny_files / f"{top}.h5" if row.url else BUNDLED / row.file, "0" * 64),
    )
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert len(blocks) == 1
    assert "label='blue'" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch makes models without numbers")
def test_tables_of_variants():
    import model_table

    page = (ROOT / "docs" / "variants.md").read_text()
    assert model_table.table() in page
    assert model_table.clip_table() in page
