"""Compares models at full size with the peers, through files that the peers write, and prints a Markdown table.

Run it in an environment that has the peers, with this package installed; it needs 16 GB of memory and takes a while:

    KERAS_BACKEND=torch python scripts/compare_full_sizes.py --peer timm [--write]
    KERAS_BACKEND=tensorflow python scripts/compare_full_sizes.py --peer keras --peer tf_keras [--write]
    KERAS_BACKEND=torch python scripts/compare_full_sizes.py --peer open_clip [--write]
    KERAS_BACKEND=torch python scripts/compare_full_sizes.py --peer transformers [--write]

Each peer builds its model with random weights far from their initial values and saves it in its own format. The file
is loaded by `weights=`, and both compute a few images. The difference is that of the outputs (timm: the logits;
Keras: of each kind of head; OpenCLIP: the unit vectors of both towers), relative to the largest output. The
script fails where it is above the tolerance.
"""

import argparse
import gc
import importlib.metadata
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from make_clip_references import TEXTS, images
from make_references import HEADS, keras_roles, normalized, random_images, random_weights, randomised
from PIL import Image

import convnext_keras
from convnext_keras.clip.text_encoder import build_text_encoder
from convnext_keras.configs import CLIP_CONFIGS, CONVNEXT_CONFIGS, SEGMENTATION_CONFIGS
from convnext_keras.inference import l2_normalize

PARITY = Path(__file__).parents[1] / "docs" / "parity.md"
SHAPE = (48, 64, 3)
TOLERANCE = 1e-4
DISTRIBUTIONS = {"open_clip": "open_clip_torch"}
HEADER = "| peer | model | tensors | parameters | largest relative difference |\n|---|---|---:|---:|---:|"


def from_timm(name: str, path: Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Our model and its outputs, and those of timm's."""
    import safetensors.torch
    import timm
    import torch

    model = randomised(timm.create_model(name, pretrained=False, num_classes=1000))
    safetensors.torch.save_file(model.state_dict(), path)
    with torch.no_grad():
        expected = model(normalized()).numpy()
    del model
    arguments = {"weights": path, "classes": 1000, "classifier_activation": None, "input_shape": SHAPE}
    ours = convnext_keras.create_model(name, **arguments)
    return ours, np.asarray(keras.ops.convert_to_numpy(ours(random_images().astype("float32")))), expected


def from_keras(library, name: str, head: str, path: Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Our model and its outputs, and those of the model in Keras 3 or 2."""
    arguments = {**HEADS[head], "classes": 1000, "input_shape": SHAPE}
    model = getattr(library.applications.convnext, name)(weights=None, **arguments)
    model.set_weights(random_weights(keras_roles(model)))
    model.save(path, include_optimizer=False) if library is keras else model.save_weights(path)
    expected = np.asarray(model(random_images().astype("float32")))
    ours = getattr(convnext_keras, name)(weights=path, **arguments)
    return ours, np.asarray(ours(random_images().astype("float32"))), expected


def from_open_clip(name: str, towers: tuple[str, ...], path: Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Our model, its unit vectors of three images and five texts, and those of OpenCLIP's; perhaps of one tower."""
    import open_clip
    import safetensors.torch
    import torch

    model = randomised(open_clip.create_model(name))
    tensors = model.state_dict()
    if towers == ("text",):
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("visual.")}
    safetensors.torch.save_file(tensors, path)
    transform = open_clip.transform.image_transform(model.visual.image_size, is_train=False)
    expected = []
    with torch.no_grad():
        if "image" in towers:
            pixels = torch.stack([transform(Image.fromarray(image)) for image in images()])
            expected.append(model.encode_image(pixels, normalize=True).numpy())
        expected.append(model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True).numpy())
    del model, tensors
    if "image" in towers:
        ours = convnext_keras.clip.create_model(name, weights=path)
        found = [ours.encode_image(images()), ours.encode_text(TEXTS, truncate="silent")]
        return ours, np.concatenate(found), np.concatenate(expected)
    variant = CLIP_CONFIGS[name]
    ours = build_text_encoder(variant.text, variant.embed_dim, None, None)
    convnext_keras.load_weights(ours, path)
    vectors = keras.ops.convert_to_numpy(ours(convnext_keras.clip.Tokenizer()(TEXTS, truncate="silent")))
    return ours, l2_normalize(vectors), np.concatenate(expected)


def from_upernet(name: str, folder: Path) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Our model and its logits, and those of transformers' `UperNetForSemanticSegmentation`."""
    import torch
    from make_hub_references import randomise_statistics
    from transformers import ConvNextConfig, SegformerImageProcessor, UperNetConfig, UperNetForSemanticSegmentation

    config = SEGMENTATION_CONFIGS[name]
    stages = ["stage1", "stage2", "stage3", "stage4"]
    sizes = {"depths": [*config.backbone.depths], "hidden_sizes": [*config.backbone.dims]}
    backbone = ConvNextConfig(out_features=stages, **sizes)
    peer = randomised(UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, num_labels=150)))
    randomise_statistics(peer)
    peer.save_pretrained(folder)
    SegformerImageProcessor().save_pretrained(folder)
    ours = convnext_keras.create_model(folder)
    with torch.no_grad():
        expected = peer(normalized()).logits.numpy().transpose(0, 2, 3, 1)
    return ours, np.asarray(keras.ops.convert_to_numpy(ours(random_images().astype("float32")))), expected


def comparisons(peer: str, folder: Path) -> Iterator[tuple[str, keras.Model, np.ndarray, np.ndarray]]:
    """Name, model and both outputs of all models of a peer."""
    if peer == "timm":
        for name in CONVNEXT_CONFIGS:
            if "isotropic" not in name and name != "convnext_mini":
                yield name, *from_timm(name, folder / "peer.safetensors")
        return
    if peer == "open_clip":
        for name in ("convnext_base_w", "convnext_large_d"):
            yield name, *from_open_clip(name, ("image", "text"), folder / "peer.safetensors")
        yield "convnext_xxlarge, text", *from_open_clip("convnext_xxlarge", ("text",), folder / "peer.safetensors")
        return
    if peer == "transformers":
        for name in ("upernet_convnext_tiny", "upernet_convnext_base"):
            yield name, *from_upernet(name, folder)
        return
    import tf_keras

    library = {"keras": keras, "tf_keras": tf_keras}[peer]
    for name in ("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"):
        for head in HEADS:
            yield f"{name}, {head}", *from_keras(library, name, head, folder / "peer.h5")
            library.backend.clear_session()


def main() -> None:
    """Prints one row for each model, and fails after the last if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peer", action="append", choices=["timm", "keras", "tf_keras", "open_clip", "transformers"], required=True
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/parity.md")
    options = parser.parse_args()
    worst = 0.0
    for peer in options.peer:
        version = f"{peer} {importlib.metadata.version(DISTRIBUTIONS.get(peer, peer))}"
        lines = []
        with tempfile.TemporaryDirectory() as folder:
            for name, model, found, expected in comparisons(peer, Path(folder)):
                difference = float(np.abs(found - expected).max() / np.abs(expected).max())
                worst = max(worst, difference)
                count = f"{len(model.weights)} | {model.count_params():,}"
                lines.append(f"| {version} | `{name}` | {count} | {difference:.1e} |")
                print(lines[-1], flush=True)
                del model
                gc.collect()
        if options.write:
            write(peer, f"{HEADER}\n" + "\n".join(lines) + "\n")
    if worst > TOLERANCE:
        raise SystemExit(f"Largest difference {worst:.1e} is above {TOLERANCE:.0e}.")


def write(peer: str, table: str) -> None:
    start, end = f"<!-- {peer} -->\n", f"<!-- end of {peer} -->"
    before, rest = PARITY.read_text().split(start)
    PARITY.write_text(before + start + table + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
