"""Trains `convnext_mini.shapes`, the bundled ConvNeXt-CLIP, and evaluates it on held-out images.

    KERAS_BACKEND=tensorflow python scripts/train_shapes_clip.py

`shapes.py` makes the images. First the image tower alone learns to name the attributes of a scene, which takes far
fewer steps than to find out from captions what a shape is; then both towers learn from captions. The script words all
of them, so it knows of every caption of a batch whether it matches each image, and the loss uses this. The
validation combinations guided the recipe and its length; the held-out ones are measured once, at the end. Writes the
checkpoint and a sheet of held-out images with their captions into `weights/`, and prints the accuracies beside those
of chance, and the sha256 for `weights/clip.csv`.
"""

import argparse
import csv
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops
from PIL import Image
from shapes import SCENES, SIZE, TABLES, Scene, draw, draw_free, free_scene, random_attributes, split, worded

from convnext_keras import clip, save_weights
from convnext_keras.checkpoints.download import file_sha256

WEIGHTS = Path(__file__).parents[1] / "weights"
SEED, STEPS = 0, 100  # steps of an epoch
BATCH, FREE = 128, 64  # images of a batch, and how many of them are free ones
RETRIEVED = 500
SHEET_COLUMNS, SHEET_ROWS = 8, 6
# Milder than LAION's (a third of the area, 0.35): a caption that speaks of places and numbers must stay true.
CROP, ERASE = (0.9, 1.0), 0.1
FAMILY = 8  # arranged scenes of a batch that differ in one or two attributes
# Probability that a caption names all attributes: of the families, and of all others.
COMPLETE = (0.8, 0.25)
CHANGES = (
    0.1,
    0.13,
    0.07,
    0.5,
    0.1,
    0.1,
)  # how often each attribute is one that differs: shapes are the hardest to tell
ATTRIBUTE_BATCH, ATTRIBUTE_FREE, ATTRIBUTE_EPOCHS = 64, 40, 30
SHAPE_WEIGHT = 3.0  # of the shape's loss beside those of the other attributes
EPOCHS, RATE = 25, 1.5e-3
VALUES = [[*table] for table in TABLES]
UNKNOWN = -1


def numbered(attributes: dict[str, str | None]) -> list[int]:
    """The place of each attribute's value in its table; `UNKNOWN` where it has none."""
    pairs = zip(Scene._fields, VALUES, strict=True)
    return [UNKNOWN if attributes.get(key) is None else values.index(attributes[key]) for key, values in pairs]


def truth(scenes: Sequence[Scene], captions: Sequence[dict[str, str]]) -> np.ndarray:
    """Which captions are true of which scenes, `(scenes, captions)`: 1, 0, or -1 where a scene leaves it open."""
    shown = np.array([numbered(scene._asdict()) for scene in scenes])[:, None]
    said = np.array([numbered(caption) for caption in captions])[None]
    wrong = ((said >= 0) & (shown >= 0) & (said != shown)).any(axis=-1)
    is_open = ((said >= 0) & (shown < 0)).any(axis=-1)
    return np.where(wrong, 0, np.where(is_open, -1, 1)).astype("float32")


class AttributeLoss(keras.losses.Loss):
    """Cross-entropy of each attribute of a scene, of those that have a name; logits of all tables side by side."""

    def call(self, y_true, y_pred):
        """Returns one value for each image, `(N,)`."""
        losses, start = [], 0
        for number, (field, values) in enumerate(zip(Scene._fields, VALUES, strict=True)):
            label, end = y_true[:, number], start + len(values)
            log_probabilities = ops.log_softmax(y_pred[:, start:end], axis=-1)
            one_hot = ops.one_hot(ops.cast(label, "int32"), len(values))  # All zeros where there is no name.
            weight = SHAPE_WEIGHT if field == "shape" else 1.0
            losses.append(ops.sum(ops.multiply(one_hot, log_probabilities), axis=-1) * -weight)
            start = end
        return ops.sum(ops.stack(losses), axis=0)


class TruthLoss(keras.losses.Loss):
    """`ContrastiveLoss` for batches in which several captions may match an image, as given by `truth`."""

    def call(self, y_true, y_pred):
        """Returns one value for each pair, `(N,)`."""
        logits = ops.where(y_true < 0, -1e9, y_pred)
        targets = ops.cast(y_true > 0, y_pred.dtype)
        by_image = ops.sum(targets * ops.log_softmax(logits, axis=1), axis=1) / ops.sum(targets, axis=1)
        by_text = ops.sum(targets * ops.log_softmax(logits, axis=0), axis=0) / ops.sum(targets, axis=0)
        return -(by_image + by_text) / 2


class Scenes(keras.utils.PyDataset):
    """Batches of images, all drawn anew, and the numbers of their attributes: free ones and random arranged ones."""

    def __init__(self, scenes: list[Scene], seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.scenes, self.known = scenes, set(scenes)
        self.augmented = clip.CLIPTrainTransform(SIZE, CROP, ERASE, seed)

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        free = [free_scene(self.random) for _ in range(ATTRIBUTE_FREE)]
        arranged = self.arranged(ATTRIBUTE_BATCH - ATTRIBUTE_FREE)
        labels = [numbered(scene._asdict()) for scene in free + arranged]
        return self.images(free, arranged), np.array(labels, "int32")

    def arranged(self, count: int) -> list[Scene]:
        """Random scenes of those in training."""
        return [self.scenes[number] for number in self.random.integers(len(self.scenes), size=count)]

    def images(self, free: list[Scene], arranged: list[Scene]) -> np.ndarray:
        """One image of each scene, `(N, 64, 64, 3)`."""
        images = [draw_free(scene, self.random) for scene in free]
        images += [self.augmented(draw(scene, self.random)) for scene in arranged]
        return np.stack(images).astype("float32")


class Pairs(Scenes):
    """Batches of images and captions, all drawn and worded anew: free ones, families, and random arranged ones."""

    def __init__(self, scenes: list[Scene], tokenizer: clip.Tokenizer, seed: int) -> None:
        super().__init__(scenes, seed)
        self.tokenizer = tokenizer

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        free, others = [free_scene(self.random) for _ in range(FREE)], (BATCH - FREE) // 2
        families = self.families(BATCH - FREE - others)
        arranged = families + self.arranged(others)
        complete = [COMPLETE[1]] * FREE + [COMPLETE[0]] * len(families) + [COMPLETE[1]] * others
        scenes = free + arranged
        captions = [random_attributes(scene, self.random, part) for scene, part in zip(scenes, complete, strict=True)]
        tokens = self.tokenizer([worded(caption, self.random) for caption in captions])
        return {"images": self.images(free, arranged), "tokens": tokens}, truth(scenes, captions)

    def families(self, count: int) -> list[Scene]:
        """Scenes, each a first one followed by others that differ from it a little, as far as they are in training."""
        chosen: list[Scene] = []
        while len(chosen) < count:
            first = self.scenes[self.random.integers(len(self.scenes))]
            family = {first: None}
            for _ in range(4 * FAMILY):
                changed = self.random.choice(len(first), self.random.integers(1, 3), replace=False, p=CHANGES)
                values = {first._fields[place]: str(self.random.choice(VALUES[place])) for place in changed}
                if (other := first._replace(**values)) in self.known:
                    family[other] = None
                if len(family) == FAMILY:
                    break
            chosen += family
        return chosen[:count]


def start_wider(model: keras.Model) -> None:
    """Kernels of deviation 1 / sqrt(fan-in): the paper's 0.02 suits widths from 96 on, and leaves narrower dense layers
    in the linear part of GELU, where shapes take thousands of steps to be noticed.
    """
    random = np.random.default_rng(SEED)
    for weight in model.weights:
        if weight.name == "kernel":
            weight.assign(random.normal(0, np.prod(weight.shape[:-1]) ** -0.5, weight.shape).astype("float32"))


def train() -> clip.CLIP:
    """A model from random weights, through both phases."""
    keras.utils.set_random_seed(SEED)
    model = clip.create_model("convnext_mini", weights=None, drop_path_rate=0.0, layer_scale_init_value=1.0)
    start_wider(model.image_encoder)
    combinations = split()
    learn_attributes(model.image_encoder, Scenes(combinations.training, SEED + 1))
    learn_captions(model, Pairs(combinations.training, model.tokenizer, SEED))
    print(f"validation: {told(measure(model, combinations.validation, SEED + 2))}", flush=True)
    return model


def learn_attributes(encoder: keras.Model, data: Scenes, epochs: int = ATTRIBUTE_EPOCHS) -> None:
    """The image tower with a head that names each attribute; the head is thrown away."""
    head = keras.layers.Dense(sum(map(len, VALUES)), name="attributes")
    classifier = keras.Model(encoder.input, head(encoder.output))
    classifier.compile(optimizer_of(2e-3, epochs * len(data)), AttributeLoss())
    classifier.fit(data, epochs=epochs, verbose=2)


def learn_captions(model: clip.CLIP, data: Pairs, epochs: int = EPOCHS) -> None:
    """Both towers, from captions of every length."""
    model.compile(optimizer_of(RATE, epochs * len(data)), TruthLoss())
    model.fit(data, epochs=epochs, verbose=2)


def optimizer_of(peak: float, steps: int) -> keras.optimizers.Optimizer:
    """AdamW, warm-up and cosine; no decay of norms, biases and the logit_scale."""
    rate = keras.optimizers.schedules.CosineDecay(1e-5, steps, warmup_target=peak, warmup_steps=steps // 20)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05, beta_2=0.98, clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "logit_scale", "embeddings"])
    return optimizer


def images_of(scenes: Sequence[Scene], seed: int) -> tuple[list[Scene], list[np.ndarray]]:
    """Arranged scenes in random order, with one image of each."""
    random = np.random.default_rng(seed)
    scenes = [scenes[place] for place in random.permutation(len(scenes))]
    return scenes, [draw(scene, random) for scene in scenes]


def measure(model: clip.DualEncoder, combinations: Sequence[Scene], seed: int) -> dict[str, float]:
    """Accuracies in percent: whole captions of arranged images among all 4,320, text to image among 500 of them, and
    color, shape and both of 600 free images among all that there are.
    """
    scenes, source_images = images_of(combinations, seed)
    images = model.encode_image(source_images)
    texts = model.encode_text([scene.caption for scene in SCENES])
    best = (images @ texts.T).argmax(axis=1)
    right = [SCENES[place] == scene for place, scene in zip(best, scenes, strict=True)]
    captions = model.encode_text([scene.caption for scene in scenes[:RETRIEVED]])
    retrieved = (captions @ images[:RETRIEVED].T).argmax(axis=1)
    accuracies = {"whole captions": np.mean(right), RECALL: np.mean(retrieved == np.arange(len(retrieved)))}
    random = np.random.default_rng(seed)
    scenes = [free_scene(random) for _ in range(600)]
    images = model.encode_image([draw_free(scene, random) for scene in scenes])
    for name, (template, fields) in LABELS.items():
        labels = [*itertools.product(*(VALUES[Scene._fields.index(field)] for field in fields))]
        best = (images @ model.encode_text([template.format(*label) for label in labels]).T).argmax(axis=1)
        accuracies[name] = np.mean(
            [
                labels[place] == tuple(getattr(scene, field) for field in fields)
                for place, scene in zip(best, scenes, strict=True)
            ]
        )
    return {name: 100 * float(accuracy) for name, accuracy in accuracies.items()}


RECALL = "recall@1 of text to image"
LABELS = {
    "color and shape": ("a {} {}", ("color", "shape")),
    "shape only": ("a {}", ("shape",)),
    "color only": ("{}", ("color",)),
}
CHANCE = {
    "whole captions": 100 / len(SCENES),
    RECALL: 100 / RETRIEVED,
    "color and shape": 100 / 36,
    "shape only": 100 / 6,
    "color only": 100 / 6,
}


def told(accuracies: dict[str, float]) -> str:
    """The accuracies in a line."""
    return "; ".join(f"{name} {percent:.1f} % (chance {CHANCE[name]:.2f} %)" for name, percent in accuracies.items())


def write_sheet(folder: Path) -> None:
    """A grid of held-out images in one PNG, and their captions in a table, row by row."""
    scenes, images = images_of(split().held_out, SEED + 1)
    scenes, images = scenes[: SHEET_COLUMNS * SHEET_ROWS], images[: SHEET_COLUMNS * SHEET_ROWS]
    cells = np.stack(images).reshape(SHEET_ROWS, SHEET_COLUMNS, SIZE, SIZE, 3).swapaxes(1, 2)
    sheet = Image.fromarray(cells.reshape(SHEET_ROWS * SIZE, SHEET_COLUMNS * SIZE, 3))
    sheet.save(folder / "shapes_held_out.png", optimize=True)
    with (folder / "shapes_held_out.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["row", "column", "caption"])
        writer.writerows([*divmod(number, SHEET_COLUMNS), scene.caption] for number, scene in enumerate(scenes))


def main() -> None:
    """Trains, measures, and writes the checkpoint only if it reaches what the card promises."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="where the checkpoint and the sheet go")
    options = parser.parse_args()
    start = time.perf_counter()
    model = train()
    accuracies = measure(model, split().held_out, SEED + 1)
    print(f"held out: {told(accuracies)}")
    print(f"{model.count_params()} parameters, {keras.backend.backend()}, {time.perf_counter() - start:.0f} s")
    checkpoint = options.folder / "convnext_mini.shapes.safetensors"
    save_weights(model, checkpoint)
    write_sheet(options.folder)
    print(f"{checkpoint.name}: {checkpoint.stat().st_size} bytes, sha256 {file_sha256(checkpoint)}")


if __name__ == "__main__":
    main()
