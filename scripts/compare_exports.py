"""Exports several models in every format, and tells what each is: size, difference from the Keras model, and speed.

KERAS_BACKEND=torch python scripts/compare_exports.py --write   # into DEPLOYMENT.md; some ten minutes
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from benchmark import machine

from convnext_keras import clip, create_model, deploy, feature_extractor

PAGE = Path(__file__).parents[1] / "DEPLOYMENT.md"
LABELS = ("a red star", "a blue circle", "a green square")


def models() -> dict[str, keras.Model | clip.ZeroShotClassifier]:
    """What is exported; weights that cannot be had offline are random, with layer scales as large as trained ones."""
    shapes = clip.create_model("convnext_mini.shapes")
    random = {name: create_model(name, weights=None) for name in ("convnext_atto", "convnextv2_atto")}
    for model in random.values():
        for weight in model.weights:
            if weight.name == "gamma":
                weight.assign(np.random.default_rng(0).normal(0.5, 0.2, weight.shape))
    digits = create_model("convnext_mini.digits")
    return {
        **random,
        "digits": digits,
        "features of digits": feature_extractor(digits),
        "shapes, image tower": shapes.image_encoder,
        "shapes, text tower": shapes.text_encoder,
        "shapes, zero-shot": clip.ZeroShotClassifier(shapes, LABELS, "{}"),
    }


def keras_seconds(model: keras.Model | clip.ZeroShotClassifier) -> float:
    """The fastest of five calls of `predict_on_batch` with one picture or text."""
    model = model.as_model() if isinstance(model, clip.ZeroShotClassifier) else model
    shape = [length or 40 for length in model.inputs[0].shape[1:]]
    inputs = np.ones((1, *shape), model.inputs[0].dtype)
    model.predict_on_batch(inputs)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        model.predict_on_batch(inputs)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def rows() -> list[str]:
    """The table, a line for each model and format."""
    lines = ["| model | format | MB | differs by | ms | x Keras |", "|---|---|---:|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models().items():
            for format, row in deploy.FORMATS.items():
                path = Path(folder) / f"{name}-{format}{row.suffix}".replace(" ", "-")
                try:
                    written = deploy.export(model, path, format)
                except (ValueError, ImportError) as error:
                    lines.append(f"| {name} | {format} | {error} | | | |")
                    continue
                ratio = keras_seconds(model) / (written.seconds or 1)
                cells = [
                    f"{written.bytes / 1e6:.2f}",
                    f"{written.difference:.1e}",
                    f"{1000 * (written.seconds or 0):.1f}",
                ]
                lines.append(f"| {name} | {format} | {' | '.join(cells)} | {ratio:.1f} |")
                print(lines[-1], flush=True)
    return lines


def write_between(name: str, text: str) -> None:
    """Puts text between the marks of a section of DEPLOYMENT.md."""
    before, rest = PAGE.read_text().split(f"<!-- {name} -->\n")
    after = rest.split(f"<!-- end of {name} -->")[1]
    PAGE.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- end of {name} -->{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into DEPLOYMENT.md")
    options = parser.parse_args()
    text = "\n".join([f"{machine()} Active backend: {keras.backend.backend()}.", "", *rows()])
    print(text)
    if options.write:
        write_between("exports", text)


if __name__ == "__main__":
    main()
