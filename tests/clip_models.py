"""Small ConvNeXt-CLIP models for the tests, and those of the references. A plugin of pytest."""

import numpy as np
import pytest
import safetensors.numpy
from backends import randomize
from make_clip_references import KINDS, SIZE, TOKEN_EMBEDDING, token_embedding
from make_references import REFERENCES, SMALL
from PIL import Image

from convnext_keras import clip, samples
from convnext_keras.configs import ConvNeXtConfig

COSINE, LOGITS = 0.99999, 1e-3
# Float32 sums of another number of rows or columns.
SAME = 1e-5


@pytest.fixture(scope="module")
def clip_checkpoints(tmp_path_factory):
    """The reference models' files, whole."""
    folder = tmp_path_factory.mktemp("clip")
    for kind, row in KINDS.items():
        tensors = safetensors.numpy.load_file(REFERENCES / f"clip_{kind}.safetensors")
        prefix = "text." if row["of"] == "CustomTextCLIP" else ""
        tensors[prefix + TOKEN_EMBEDDING] = token_embedding(row["text"][0])
        safetensors.numpy.save_file(tensors, folder / f"{kind}.safetensors")
    return folder


def variant(kind):
    row = KINDS[kind]
    hidden = 2 * row["embedding"] if row["projection"] == "mlp" else None
    trunk = ConvNeXtConfig(**SMALL, epsilon=row["epsilon"])
    return clip.CLIPConfig(
        trunk, clip.CLIPTextConfig(*row["text"]), row["embedding"], SIZE, projection_hidden_size=hidden
    )


def load(kind, folder, **arguments):
    return clip.CLIPConvNeXt(variant(kind), **{"weights": folder / f"{kind}.safetensors", **arguments})


@pytest.fixture(scope="module")
def small_clip():
    """A small model with random weights, which no test changes."""
    return randomize(clip.CLIPConvNeXt(variant("linear")))


def random_images(count):
    return [np.random.default_rng(seed).integers(0, 256, (70, 80, 3), "uint8") for seed in range(count)]


@pytest.fixture(scope="session")
def held_out():
    """The held-out images of the bundled model, and their captions."""
    return samples.load_shapes()


@pytest.fixture
def folder(held_out, tmp_path):
    """Twelve images in two folders, named by their captions."""
    for number, (pixels, caption) in enumerate(zip(*held_out, strict=True)):
        if number < 12:
            path = tmp_path / "images" / str(number % 2) / f"{caption.replace(' ', '-')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "images"
