"""Runs a folder of `export_immich` as Immich's machine-learning service does, without this library or Keras.

python scripts/run_immich.py FOLDER --images a.png b.jpg --texts "a red star" --output vectors.npz

The steps are those of `immich_ml/models/clip/{textual,visual}.py` and `transforms.py` (read 2026-11), with onnxruntime,
tokenizers, Pillow and NumPy.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer


def load(folder: Path, *names: str) -> dict:
    return json.loads(folder.joinpath(*names).read_text(encoding="utf-8"))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def embed_texts(folder: Path, texts: list[str]) -> np.ndarray:
    length = load(folder, "config.json")["text_cfg"].get("context_length", 77)
    pad = load(folder, "textual", "tokenizer_config.json")["pad_token"]
    tokenizer = Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=length)
    model = session(folder / "textual" / "model.onnx")
    rows = [np.array([tokenizer.encode(" ".join(text.split())).ids], "int32") for text in texts]
    return np.stack([np.asarray(model.run(None, {"text": row})[0])[0] for row in rows])


def prepare(image: Image.Image, settings: dict) -> Image.Image:
    """Resizes the shorter edge and crops the middle, or squashes."""
    size = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]
    method = Image.Resampling[settings["interpolation"].upper()]
    if settings.get("resize_mode", "shortest") == "squash":
        return image.resize((size, size), method)
    width, height = image.size
    shape = (size, int(height / width * size)) if width < height else (int(width / height * size), size)
    resized = image.resize(shape, method)
    left, top = int(resized.width / 2 - size / 2), int(resized.height / 2 - size / 2)
    return resized.crop((left, top, left + size, top + size))


def embed_images(folder: Path, paths: list[Path]) -> np.ndarray:
    settings = load(folder, "visual", "preprocess_cfg.json")
    mean, std = (np.array(settings[name], "float32") for name in ("mean", "std"))
    model, rows = session(folder / "visual" / "model.onnx"), []
    for path in paths:
        pixels = np.asarray(prepare(Image.open(path).convert("RGB"), settings), "float32") / 255
        outputs = model.run(None, {"image": ((pixels - mean) / std).transpose(2, 0, 1)[None]})
        rows.append(np.asarray(outputs[0])[0])
    return np.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    vectors = {
        "images": embed_images(options.folder, options.images),
        "texts": embed_texts(options.folder, options.texts),
    }
    np.savez(options.output, **vectors)


if __name__ == "__main__":
    main()
