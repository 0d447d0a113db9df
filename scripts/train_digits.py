"""Trains `convnext_mini.digits` on scikit-learn's handwritten digits and measures it on the fifth that it never saw.

    KERAS_BACKEND=jax python scripts/train_digits.py

Writes the checkpoint and the sheet of held-out digits into `weights/` and prints the accuracy and the sha256 for
`weights/registry.csv`. The data are the 1,797 digits of "Optical Recognition of Handwritten Digits" (E. Alpaydin and
C. Kaynak, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), 8 x 8 pixels of 17 gray levels.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from convnext_keras import create_model, save_weights
from convnext_keras.checkpoints.download import file_sha256
from convnext_keras.data.transforms import ImageTransform

WEIGHTS = Path(__file__).parents[1] / "weights"
RECIPE = ImageTransform(size=32)
SEED, EPOCHS, BATCH = 0, 120, 64


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels `(N, 8, 8)` in 0..255 and labels, for training and held out: a fixed fifth."""
    digits: Any = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype("uint8")
    order = np.random.default_rng(SEED).permutation(len(pixels))
    held_out, training = np.split(order, [len(order) // 5])
    return pixels[training], digits.target[training], pixels[held_out], digits.target[held_out]


def write_sheet(pixels: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """One row for each digit, 0 at the top, cells of 8 x 8 pixels; empty cells end the shorter rows."""
    columns = np.bincount(labels).max()
    sheet = np.zeros((10, 8, columns, 8), "uint8")
    for digit in range(10):
        mine = pixels[labels == digit]
        sheet[digit, :, : len(mine)] = mine.transpose(1, 0, 2)
    Image.fromarray(sheet.reshape(80, columns * 8)).save(path, optimize=True)


class Augmented(keras.utils.PyDataset):
    """Batches of digits, each rotated, scaled and shifted a little, anew in every epoch."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self.images = [Image.fromarray(RECIPE(image)) for image in pixels]
        self.targets = keras.utils.to_categorical(labels, 10)
        self.random = np.random.default_rng(SEED)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self.order[index * BATCH : (index + 1) * BATCH]
        return np.stack([self.distorted(self.images[number]) for number in batch]), self.targets[batch]

    def on_epoch_end(self) -> None:
        self.order = self.random.permutation(len(self.images))

    def distorted(self, image: Image.Image) -> np.ndarray:
        """At most 15 degrees, 15 % and 3 pixels."""
        angle, scale_x, scale_y = self.random.uniform([-0.26, 0.85, 0.85], [0.26, 1.15, 1.15])
        matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / [scale_x, scale_y]
        offset = 15.5 - matrix @ (15.5 + self.random.uniform(-3, 3, 2))
        affine = (*matrix[0], offset[0], *matrix[1], offset[1])
        return np.asarray(image.transform((32, 32), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))


def train(pixels: np.ndarray, labels: np.ndarray) -> keras.Model:
    """AdamW, warm-up and cosine, stochastic depth, label smoothing, small random rotations, shifts and scales."""
    keras.utils.set_random_seed(SEED)
    model = create_model("convnext_mini", weights=None, classes=10, drop_path_rate=0.1, layer_scale_init_value=0.1)
    data = Augmented(pixels, labels)
    steps = EPOCHS * len(data)
    rate = keras.optimizers.schedules.CosineDecay(1e-5, steps, warmup_target=2e-3, warmup_steps=steps // 20)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05, clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    model.fit(data, epochs=EPOCHS, verbose=2)
    return model


def main() -> None:
    """Trains, measures, and writes the checkpoint only if it reaches what the card promises."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="where the checkpoint and the sheet go")
    folder = parser.parse_args().folder
    start = time.perf_counter()
    train_pixels, train_labels, pixels, labels = split()
    model = train(train_pixels, train_labels)
    scores = model.predict(np.stack([RECIPE(image) for image in pixels]), verbose=0)
    right = int((scores.argmax(axis=1) == labels).sum())
    print(f"held out: {right} of {len(labels)} right, {100 * right / len(labels):.2f} %")
    print(f"{model.count_params()} parameters, {keras.backend.backend()}, {time.perf_counter() - start:.0f} s")
    if right < 0.985 * len(labels):
        raise SystemExit("Below 98.5 %: nothing written.")
    checkpoint = folder / "convnext_mini.digits.safetensors"
    save_weights(model, checkpoint)
    write_sheet(pixels, labels, folder / "digits_held_out.png")
    few = np.stack([RECIPE(image) for image in pixels[:8]])
    np.savez_compressed(folder.parent / "tests" / "references" / "digits_jax.npz", pixels=few, scores=model(few))
    print(f"{checkpoint.name}: {checkpoint.stat().st_size} bytes, sha256 {file_sha256(checkpoint)}")


if __name__ == "__main__":
    main()
