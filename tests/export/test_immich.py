"""The folder for Immich gives Keras' vectors through onnxruntime and tokenizers, without this library."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from backends import randomize
from PIL import Image
from typer.testing import CliRunner
from waiting import TIMEOUT

from convnext_keras import clip, export
from convnext_keras.cli import app
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.export.tokenizer_file import tokenizer_json

pytestmark = [pytest.mark.any_backend, pytest.mark.integration]
SCRIPT = Path(__file__).parents[2] / "scripts" / "run_immich.py"
SAME = 1e-4
TEXTS = [
    *("a red star", "  Two  blue CIRCLES,\n in the upper-left corner! ", "it's 25 o'clock", "", "red " * 100),
    *("Größe: 3½ µm, naïve café", "日本の駅", "🦊🦊 fox", "x" * 300),
]


def photos(folder):
    """Images whose edges leave an even number of pixels to crop, where all programs crop alike."""
    random, paths = np.random.default_rng(0), []
    for number, (width, height) in enumerate([(64, 64), (128, 96), (96, 160), (300, 300)]):
        small = random.integers(0, 256, (height // 8, width // 8, 3), "uint8")
        paths.append(folder / f"{number}.png")
        Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).save(paths[-1])
    return paths


def as_immich_does(folder, images, texts, tmp_path):
    command = [sys.executable, SCRIPT, folder, "--images", *images, "--texts", *texts]
    done = subprocess.run(
        [*map(str, command), "--output", str(tmp_path / "vectors.npz")], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "vectors.npz")


@pytest.fixture(params=["bundled", pytest.param("base_w", marks=pytest.mark.slow)])
def model(request):
    if request.param == "bundled":
        return clip.create_model("convnext_mini.shapes")
    model = clip.CLIPConvNeXtBaseW(weights=None)
    for tower in (model.image_encoder, model.text_encoder):
        randomize(tower)
    return model


def test_vectors_equal_those_of_keras(model, tmp_path):
    images = photos(tmp_path)
    written = export.export_immich(model, tmp_path / "immich")
    found = as_immich_does(written.path, images, TEXTS, tmp_path)
    np.testing.assert_allclose(found["images"], model.encode_image(images), atol=SAME)
    np.testing.assert_allclose(found["texts"], model.encode_text(TEXTS, truncate="silent"), atol=SAME)
    assert {path.relative_to(written.path).as_posix() for path in written.path.rglob("*") if path.is_file()} >= {
        "config.json",
        *(f"textual/{name}" for name in ("model.onnx", "tokenizer.json", "tokenizer_config.json")),
        *(f"visual/{name}" for name in ("model.onnx", "preprocess_cfg.json")),
    }


@pytest.mark.parametrize("vocab_size", [49_408, 1_000])
def test_tokenizer_file_gives_the_same_ids(vocab_size):
    tokenizer = Tokenizer(vocab_size)
    read = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))
    for text in TEXTS:
        assert read.encode(text).ids == [tokenizer.start, *tokenizer.encode(text), tokenizer.end], text


def test_command_and_errors(tmp_path):
    arguments = ["export", "convnext_mini.shapes", "--format", "immich", "--output", str(tmp_path / "immich")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "immich in float32" in result.stdout
    assert json.loads((tmp_path / "immich/config.json").read_text())["text_cfg"]["context_length"] == 40
    model = clip.create_model("convnext_mini.shapes")
    with pytest.raises(ValueError, match="exists"):
        export.export_immich(model, tmp_path / "immich")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="exists"):
        export.export_immich(model, tmp_path / "other", overwrite=True)
    with pytest.raises(ValueError, match="takes a ConvNeXt-CLIP"):
        CliRunner().invoke(
            app,
            ["export", "convnext_mini.digits", "--format", "immich", "--output", str(tmp_path / "no")],
            catch_exceptions=False,
        )
    assert not (tmp_path / "no").exists()
