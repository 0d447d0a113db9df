"""Writes `tests/references/`: small models of the peers in their own file formats, with the outputs that they compute.

Run it in an environment that has the peers (TensorFlow, tf_keras, keras, timm, transformers, torchvision), by name:

    python scripts/make_references.py keras tf_keras

Weights are random and far from their initial values everywhere, so that a tensor in the wrong place shows.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

REFERENCES = Path(__file__).parents[1] / "tests" / "references"
ARCHITECTURE = {"depths": [1, 1, 2, 1], "projection_dims": [4, 8, 12, 16]}
CLASSES = 7
HEADS = {
    "top": {"include_top": True, "classes": CLASSES},
    "none": {"include_top": False, "pooling": None},
    "avg": {"include_top": False, "pooling": "avg"},
    "max": {"include_top": False, "pooling": "max"},
}


def random_weights(shapes: list[tuple[str, tuple[int, ...]]], seed: int = 1) -> list[np.ndarray]:
    """An array for each `(role, shape)`: kernels keep the size of activations, factors lie about 1, offsets about 0."""
    random = np.random.default_rng(seed)
    arrays = []
    for role, shape in shapes:
        fan_in = max(1, int(np.prod(shape[:-1])))
        mean, deviation = {"factor": (1.0, 0.3), "offset": (0.0, 0.3), "kernel": (0.0, fan_in**-0.5)}[role]
        arrays.append(random.normal(mean, deviation, shape).astype("float32"))
    return arrays


def pictures() -> np.ndarray:
    """Two smooth pictures of 48 x 64 pixels, `(2, 48, 64, 3)` in 0..255."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), "uint8")
    return np.stack([np.asarray(Image.fromarray(row).resize((64, 48), Image.Resampling.BICUBIC)) for row in noise])


def keras_roles(model) -> list[tuple[str, tuple[int, ...]]]:
    roles = {"kernel": "kernel", "bias": "offset", "beta": "offset"}
    names = [weight.name.split("/")[-1].removesuffix(":0") for weight in model.weights]
    return [(roles.get(name, "factor"), tuple(weight.shape)) for name, weight in zip(names, model.weights, strict=True)]


def from_keras(name: str, build: Callable, save: Callable) -> None:
    """Each kind of head of `ConvNeXt` as a plain `.h5`, and the outputs of all of them."""
    outputs = {}
    for head, arguments in HEADS.items():
        model = build(**arguments)
        model.set_weights(random_weights(keras_roles(model)))
        outputs[head] = np.asarray(model(pictures().astype("float32")))
        save(model, head)
    np.savez_compressed(REFERENCES / f"{name}.npz", pixels=pictures(), **outputs)


def keras_3() -> None:
    """`keras.applications` of Keras 3: plain `.h5`, inside `model_weights`, and `.weights.h5`."""
    import keras
    from keras.src.applications.convnext import ConvNeXt
    from keras.src.legacy.saving import legacy_h5_format

    def build(**arguments):
        keras.utils.clear_session(free_memory=False)
        return ConvNeXt(**ARCHITECTURE, **arguments, name="small", weights=None, input_shape=(48, 64, 3))

    def save(model, head):
        import h5py

        with h5py.File(REFERENCES / f"keras_{head}.h5", "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
        if head == "top":
            model.save_weights(REFERENCES / "keras_top.weights.h5")
            model.save(REFERENCES / "keras_top_model.h5")

    from_keras("keras", build, save)


def keras_2() -> None:
    """`tf_keras`, the Keras 2 that wrote the published files."""
    import tf_keras
    from tf_keras.src.applications.convnext import ConvNeXt

    def build(**arguments):
        tf_keras.backend.clear_session()
        return ConvNeXt(**ARCHITECTURE, **arguments, model_name="small", weights=None, input_shape=(48, 64, 3))

    from_keras("tf_keras", build, lambda model, head: model.save_weights(REFERENCES / f"tf_keras_{head}.h5"))


PEERS = {"keras": keras_3, "tf_keras": keras_2}


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    REFERENCES.mkdir(exist_ok=True)
    for peer in sys.argv[1:] or PEERS:
        PEERS[peer]()
