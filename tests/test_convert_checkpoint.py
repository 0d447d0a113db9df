"""The script that turns pickles into safetensors, once and outside the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy
from make_references import CLASSES, REFERENCES, SMALL

from convnext_keras import ConvNeXt, WeightsError

pytestmark = pytest.mark.any_backend

torch = pytest.importorskip("torch")
SCRIPT = Path(__file__).parents[1] / "scripts" / "convert_checkpoint.py"


def convert(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema"])
def test_converted_files_load(wrapper, tmp_path):
    tensors = safetensors.numpy.load_file(REFERENCES / "meta_plain.safetensors")
    tensors = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    wrapped = {wrapper: tensors, "epoch": 300, "optimizer": {"step": torch.ones(1)}} if wrapper else tensors
    torch.save(wrapped, tmp_path / "meta.pth")
    with pytest.raises(WeightsError, match=r"zip archive.*scripts/convert_checkpoint\.py FILE OUT\.safetensors"):
        ConvNeXt(**SMALL, classes=CLASSES, weights=tmp_path / "meta.pth")
    done = convert(tmp_path / "meta.pth", tmp_path / "meta.safetensors")
    assert f"{len(tensors)} tensors" in done.stdout
    ConvNeXt(**SMALL, classes=CLASSES, weights=tmp_path / "meta.safetensors")
    assert "exists already" in convert(tmp_path / "meta.pth", tmp_path / "meta.safetensors").stderr


class Hostile:
    def __reduce__(self):
        return os.system, ("touch ran",)


CONTENTS = {"object": Hostile(), "inside": {"model": Hostile()}, "number": 3, "no tensors": {"epoch": 3}}


@pytest.mark.parametrize("content", CONTENTS)
def test_nothing_is_run_or_left(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(CONTENTS[content], tmp_path / "bad.pth")
    done = convert(tmp_path / "bad.pth", tmp_path / "bad.safetensors")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]
