"""Fine-tunes the bundled ConvNeXt-CLIP on shapes and colors that it never saw, and shows what it forgets.

    KERAS_BACKEND=torch python scripts/fine_tune_clip.py

The new classes are hearts, hexagons, and everything pink or cyan. Printed is, for each seed, the zero-shot accuracy on
held-out images of the new classes and of old ones, among all classes, and that of whole captions of the old ones
among all 4,320; before fine-tuning, after it, and for averages of the two models (https://arxiv.org/abs/2109.01903v3).
"""

import argparse
import dataclasses
import time

import numpy as np
import shapes
from train_shapes_clip import SEED, images_of

from convnext_keras import clip, training
from convnext_keras.training import ImageDataset, ImageTextDataset

NEW_COLORS = {
    "pink": shapes.Hue((245, 130, 190), (325, 340), (0.4, 0.6), (0.85, 1)),
    "cyan": shapes.Hue((40, 220, 230), (178, 188), (0.7, 0.9), (0.8, 1)),
}
NEW_SHAPES = {"heart": 24, "hexagon": 6}
TEMPLATE = "a {}"
HELD_OUT = 200  # images of new scenes, and of old ones
DRAWN = 4_000  # images to learn from, of each of the three kinds
# The rate is that of a small model: 128 channels wide, not 1,024.
RECIPE = dataclasses.replace(
    training.CLIP_CONFIG,
    batch_size=48,
    epochs=1,
    learning_rate=2e-3,
    weight_decay=0.0,
    crop_scale=(0.9, 1.0),
)


def new_scenes() -> list[shapes.Scene]:
    """Scenes with a new shape or a new color, in the place of two that the model knows."""
    colors = dict(zip(("red", "blue"), NEW_COLORS, strict=True))
    forms = dict(zip(("star", "circle"), NEW_SHAPES, strict=True))
    scenes = [scene._replace(color=colors[scene.color]) for scene in shapes.SCENES if scene.color in colors]
    return scenes + [scene._replace(shape=forms[scene.shape]) for scene in shapes.SCENES if scene.shape in forms]


def class_names() -> tuple[str, ...]:
    """Returns the accuracy for color and shape, on old and new images."""
    return tuple(f"{color} {shape}" for color in shapes.COLORS for shape in shapes.SHAPES)


def examples_of(scenes: list[shapes.Scene], images: list[np.ndarray]) -> ImageDataset:
    """Images with color and shape as their class."""
    places = {name: place for place, name in enumerate(class_names())}
    labels = np.array([places[f"{scene.color} {scene.shape}"] for scene in scenes])
    return ImageDataset(images, labels, class_names())


def drawn(scenes: list[shapes.Scene], count: int, random: np.random.Generator) -> tuple[list, list]:
    """So many scenes, each as often as any, and an image of each."""
    rows = [scenes[place] for place in random.integers(0, len(scenes), count)]
    return rows, [shapes.draw(scene, random) for scene in rows]


def captions(scenes: list[shapes.Scene], images: list[np.ndarray], random: np.random.Generator) -> ImageTextDataset:
    """Images with whole captions in varied wording; those of one scene are a group."""
    numbers: dict[shapes.Scene, int] = {}
    groups = [numbers.setdefault(scene, len(numbers)) for scene in scenes]
    texts = [(scene.caption, shapes.random_caption(scene, random, complete=1.0)) for scene in scenes]
    return ImageTextDataset(images, tuple(texts), np.array(groups))


def learned(
    model: clip.CLIP, scenes: list[shapes.Scene], seed: int, config: training.TrainingConfig = RECIPE
) -> clip.CLIP:
    """A copy of the model that has learned the new classes by their names, and was shown old images in turn."""
    random = np.random.default_rng((SEED, seed))
    old = shapes.split().training
    named_rows, named = drawn(scenes, DRAWN, random)
    known_rows, known = drawn(old, DRAWN // 2, random)
    both = training.class_prompts(
        examples_of(named_rows + known_rows, named + known), ("a {}", "{}", "an image of a {}")
    )
    replayed = captions(*drawn(old + scenes, DRAWN, random), random)
    return training.fine_tune_clip(model, both, config, replay_data=replayed, seed=seed)


def caption_accuracy(model: clip.CLIP, scenes: list[shapes.Scene], images: list[np.ndarray]) -> float:
    """Part 0..1 of images whose whole caption is the nearest of all 4,320."""
    texts = model.encode_text([scene.caption for scene in shapes.SCENES])
    nearest = (model.encode_image(images) @ texts.T).argmax(axis=1)
    return float(np.mean([shapes.SCENES[place] == scene for place, scene in zip(nearest, scenes, strict=True)]))


def extend_shapes() -> None:
    """Adds the new colors and shapes to the tables that scenes are drawn from."""
    shapes.COLORS.update(NEW_COLORS)
    shapes.SHAPES.update(NEW_SHAPES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    options = parser.parse_args()
    config = dataclasses.replace(RECIPE, epochs=options.epochs)
    random = np.random.default_rng(SEED)
    old_scenes, old_images = images_of(shapes.split().held_out[:HELD_OUT], SEED + 1)
    scenes = new_scenes()
    extend_shapes()
    order = random.permutation(len(scenes))
    held_out, kept = ([scenes[place] for place in part] for part in np.split(order, [HELD_OUT]))
    new, old = (
        examples_of(held_out, [shapes.draw(scene, random) for scene in held_out]),
        examples_of(old_scenes, old_images),
    )
    model = clip.create_model("shapes")
    print("seed | weight of the tuned model | new classes | old classes | old captions | seconds")
    for seed in range(options.seeds):
        begun = time.perf_counter()
        tuned = learned(model, kept, seed, config)
        seconds = time.perf_counter() - begun
        for weight in (0.0, 0.5, 0.75, 0.9, 1.0):
            mixed = clip.interpolate_weights(model, tuned, weight)
            figures = [training.zero_shot_accuracy(mixed, part, TEMPLATE) for part in (new, old)]
            figures.append(caption_accuracy(mixed, old_scenes, old_images))
            print(f"{seed} | {weight:.2f} | {' | '.join(f'{100 * part:.1f} %' for part in figures)} | {seconds:.0f}")


if __name__ == "__main__":
    main()
