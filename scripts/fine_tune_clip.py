"""Fine-tunes the bundled ConvNeXt-CLIP on shapes and colours that it never saw, and shows what it forgets.

    KERAS_BACKEND=torch python scripts/fine_tune_clip.py

The new classes are hearts, hexagons, and everything pink or cyan. Printed is the zero-shot accuracy on the new classes
and on the old ones, before fine-tuning, after it, and for averages of the two models
(https://arxiv.org/abs/2109.01903v3).
"""

import argparse

import keras
import numpy as np
import shapes
from train_shapes_clip import SEED, pictures_of

from convnext_keras import clip

NEW_COLOURS = {
    "pink": shapes.Hue((245, 130, 190), (325, 340), (0.4, 0.6), (0.85, 1)),
    "cyan": shapes.Hue((40, 220, 230), (178, 188), (0.7, 0.9), (0.8, 1)),
}
NEW_SHAPES = {"heart": 24, "hexagon": 6}
STEPS, BATCH, RATE = 100, 64, 5e-4


def new_scenes() -> list[shapes.Scene]:
    """Scenes with a new shape or a new colour, in the place of two that the model knows."""
    colours = dict(zip(("red", "blue"), NEW_COLOURS, strict=True))
    forms = dict(zip(("star", "circle"), NEW_SHAPES, strict=True))
    scenes = [scene._replace(colour=colours[scene.colour]) for scene in shapes.SCENES if scene.colour in colours]
    return scenes + [scene._replace(shape=forms[scene.shape]) for scene in shapes.SCENES if scene.shape in forms]


def accuracy(model: clip.CLIP, scenes: list[shapes.Scene], pictures: list[np.ndarray]) -> float:
    """Percent of pictures whose shape and colour are told right, among all shapes and colours, old and new."""
    pairs = [(colour, shape) for colour in shapes.COLOURS for shape in shapes.SHAPES]
    classifier = clip.ZeroShotClassifier(model, [f"{colour} {shape}" for colour, shape in pairs], "a {}")
    best = classifier.cosines(pictures).argmax(axis=1)
    return 100 * float(
        np.mean([pairs[index] == (row.colour, row.shape) for index, row in zip(best, scenes, strict=True)])
    )


def fine_tune(model: clip.CLIP, scenes: list[shapes.Scene], random: np.random.Generator, steps: int) -> clip.CLIP:
    """A copy of the model, both towers trained on pairs of the new classes and as many old ones, so that these stay."""
    tuned = clip.interpolate(model, model, 0)
    tuned.compile(keras.optimizers.AdamW(RATE, weight_decay=0.0), clip.ContrastiveLoss())
    augmented = clip.RandomCropAndErase(shapes.SIZE, (0.9, 1.0), 0.1, SEED)
    sources = (scenes, shapes.split().training)
    rows = [source[random.integers(len(source))] for source in sources * (steps * BATCH // 2)]
    images = np.stack([augmented(shapes.draw(scene, random)) for scene in rows]).astype("float32")
    # Whole captions: a partial one may be true of other pictures of the batch too, which the loss does not know.
    tokens = tuned.tokenizer([shapes.random_caption(scene, random, complete=1.0) for scene in rows])
    tuned.fit({"images": images, "tokens": tokens}, batch_size=BATCH, verbose=2)
    return tuned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    random = np.random.default_rng(SEED)
    old_scenes, old_pictures = pictures_of(shapes.split().held_out[:200], SEED + 1)
    shapes.COLOURS.update(NEW_COLOURS)
    shapes.SHAPES.update(NEW_SHAPES)
    scenes = new_scenes()
    order = random.permutation(len(scenes))
    held_out, training = ([scenes[index] for index in part] for part in np.split(order, [200]))
    pictures = [shapes.draw(scene, random) for scene in held_out]
    model = clip.create_model("shapes")
    tuned = fine_tune(model, training, random, options.steps)
    print("weight of the tuned model | new classes | old classes")
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        mixed = clip.interpolate(model, tuned, weight)
        new, old = accuracy(mixed, held_out, pictures), accuracy(mixed, old_scenes, old_pictures)
        print(f"{weight:.2f} | {new:.1f} % | {old:.1f} %")


if __name__ == "__main__":
    main()
