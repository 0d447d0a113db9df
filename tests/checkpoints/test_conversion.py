"""The command that turns pickles into safetensors, once."""

import os
import sys

import pytest
import safetensors.numpy
from make_references import CLASSES, REFERENCES, SMALL

from convnext_keras import ConvNeXt, WeightsError
from convnext_keras.checkpoints import convert_checkpoint
from convnext_keras.checkpoints.formats import open_weights
from convnext_keras.cli import main

pytestmark = pytest.mark.any_backend


@pytest.fixture
def torch():
    """Imported by these tests only: under other backends they are collected, and not run."""
    return pytest.importorskip("torch")


@pytest.fixture
def convert(monkeypatch, capsys):
    """The command as a user runs it: what it prints, or the sentence that it ends with."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convnext-keras", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return str(end.value.code) if end.value.code else capsys.readouterr().out

    return run


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema"])
def test_converted_files_load(wrapper, convert, torch, tmp_path):
    tensors = safetensors.numpy.load_file(REFERENCES / "meta_plain.safetensors")
    tensors = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    wrapped = {wrapper: tensors, "epoch": 300, "optimizer": {"step": torch.ones(1)}} if wrapper else tensors
    torch.save(wrapped, tmp_path / "meta.pth")
    with pytest.raises(WeightsError, match=r"zip archive.*convnext-keras convert FILE OUT.safetensors"):
        ConvNeXt(**SMALL, classes=CLASSES, weights=tmp_path / "meta.pth")
    assert f"{len(tensors)} tensors" in convert(tmp_path / "meta.pth", tmp_path / "meta.safetensors")
    ConvNeXt(**SMALL, classes=CLASSES, weights=tmp_path / "meta.safetensors")
    assert "exists already" in convert(tmp_path / "meta.pth", tmp_path / "meta.safetensors")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch ran",)


CONTENTS = {"object": Hostile(), "inside": {"model": Hostile()}, "number": 3, "no tensors": {"epoch": 3}}


@pytest.mark.parametrize("content", CONTENTS)
def test_convert_runs_no_code_and_leaves_no_files(content, convert, torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(CONTENTS[content], tmp_path / "bad.pth")
    ended = convert(tmp_path / "bad.pth", tmp_path / "bad.safetensors")
    assert ended.startswith("convnext-keras: ")
    assert "\n" not in ended
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_bfloat16_tensors_keep_their_type(torch, tmp_path):
    torch.save({"weight": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, tmp_path / "half.pth")
    convert_checkpoint(tmp_path / "half.pth", tmp_path / "half.safetensors")
    with open_weights(tmp_path / "half.safetensors") as file:
        assert file.headers["weight"].dtype == "bfloat16"
        assert file.read("weight").astype("float32").tolist() == [1.5, -2.0]


def test_convert_without_pytorch_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"convnext-keras\[torch\]"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
