"""Zero-shot accuracy and retrieval recall of a ConvNeXt-CLIP on folders of images.

    python scripts/evaluate_zero_shot.py --weights convnext_base_w.laion2b_s13b_b82k_augreg --images imagenet/val
    python scripts/evaluate_zero_shot.py --weights shapes --images images --captions captions.csv

`--images` has one folder a class, in the order of the classes when sorted, as ImageNet's 1,000 WordNet folders are;
with 1,000 folders OpenAI's names and 80 templates are used, otherwise the folders' names. With `--captions`, a table
with the columns `file` and `caption` (an image may have several), recall@1, 5 and 10 are computed instead, in both
directions. Vectors are kept in `--state`, so that a run that was stopped goes on where it was.
"""

import argparse
import csv
import hashlib
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from convnext_keras import clip
from convnext_keras.data.loader import list_images

IMAGENET_CLASSES = 1000
CHUNK = 1024  # images between two saves
RANKS = (1, 5, 10)


def chunks(paths: list[Path]) -> Iterator[list[Path]]:
    """The images in pieces, each of which is saved when it is done."""
    for start in range(0, len(paths), CHUNK):
        yield paths[start : start + CHUNK]


def vectors_of(model: clip.CLIP, paths: list[Path], state: Path, batch_size: int) -> np.ndarray:
    """Unit vectors `(N, D)` of images, those already in the folder `state` read from there."""
    state.mkdir(parents=True, exist_ok=True)
    parts = []
    with tqdm(total=len(paths), unit="image") as progress:
        for chunk in chunks(paths):
            described = "\n".join([str(model.pretrained_info and model.pretrained_info.sha256), *map(str, chunk)])
            file = state / f"{hashlib.sha256(described.encode()).hexdigest()[:32]}.npy"
            if not file.is_file():
                vectors = model.encode_image(chunk, batch_size)
                partial = file.with_suffix(".partial")
                with partial.open("wb") as stream:
                    np.save(stream, vectors)
                partial.replace(file)
            parts.append(np.load(file))
            progress.update(len(chunk))
    return np.concatenate(parts)


def accuracy(model: clip.CLIP, folder: Path, state: Path, batch_size: int, templates: list[str] | None) -> dict:
    """Top-1 and top-5 in percent, by the position of the class's folder."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if len(classes) < 2:
        raise SystemExit(f"{folder} must have one folder for each class. It has {len(classes)}.")
    imagenet = len(classes) == IMAGENET_CLASSES
    labels = clip.imagenet_classes() if imagenet else [path.name.replace("_", " ") for path in classes]
    templates = templates or (list(clip.imagenet_templates()) if imagenet else ["a photo of a {}."])
    files = [list_images(path) for path in classes]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Labels that occur more than once")  # ImageNet has two such pairs.
        classifier = clip.ZeroShotClassifier(model, labels, templates)
    vectors = vectors_of(model, list(itertools.chain(*files)), state, batch_size)
    truth = np.repeat(np.arange(len(classes)), [len(paths) for paths in files])
    best = np.argsort(-(vectors @ classifier.classes.T), axis=1, kind="stable")[:, :5]
    hits = best == truth[:, None]
    return {
        "images": len(truth),
        "classes": len(classes),
        "templates": len(templates),
        "top-1": 100 * hits[:, 0].mean(),
        "top-5": 100 * hits.any(axis=1).mean(),
    }


def recall(model: clip.CLIP, folder: Path, captions: Path, state: Path, batch_size: int) -> dict:
    """Recall at each rank in percent: of texts to images, and of images to any of their texts."""
    with captions.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"file", "caption"} <= rows[0].keys():
        raise SystemExit(f"{captions} must be a table with the columns file and caption.")
    files = sorted({row["file"] for row in rows})
    place = {file: number for number, file in enumerate(files)}
    owner = np.array([place[row["file"]] for row in rows])
    images = vectors_of(model, [folder / file for file in files], state, batch_size)
    texts = model.encode_text([row["caption"] for row in rows], truncate="silent")
    cosines = texts @ images.T  # (texts, images)
    # How many images are nearer to a text than its own; how many texts are nearer to an image than the best of its own.
    of_texts = (cosines > cosines[np.arange(len(owner)), owner][:, None]).sum(axis=1)
    own = np.where(owner[:, None] == np.arange(len(files)), cosines, -np.inf).max(axis=0)
    of_images = (cosines > own).sum(axis=0)
    results = {"images": len(files), "captions": len(rows)}
    results |= {f"text to image recall@{rank}": 100 * (of_texts < rank).mean() for rank in RANKS}
    return results | {f"image to text recall@{rank}": 100 * (of_images < rank).mean() for rank in RANKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="convnext_base_w.laion2b_s13b_b82k_augreg")
    parser.add_argument("--images", type=Path, required=True, help="folder of images, or of one folder a class")
    parser.add_argument("--captions", type=Path, help="table with the columns file and caption")
    parser.add_argument("--template", action="append", help="prompt with {}; may be given several times")
    parser.add_argument("--state", type=Path, default=Path("evaluation"), help="folder of the vectors computed so far")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    model = clip.create_model(options.weights)
    if options.captions:
        results = recall(model, options.images, options.captions, options.state, options.batch_size)
    else:
        results = accuracy(model, options.images, options.state, options.batch_size, options.template)
    print(options.weights)
    for name, value in results.items():
        print(f"{name}: {value if isinstance(value, int) else f'{value:.2f} %'}")


if __name__ == "__main__":
    main()
