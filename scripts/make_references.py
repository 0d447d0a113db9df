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


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a reference file, which is closed again."""
    with np.load(path) as file:
        return dict(file)


def random_weights(shapes: list[tuple[str, tuple[int, ...]]], seed: int = 1) -> list[np.ndarray]:
    """Returns a random array by role and shape: kernels keep the scale of activations, factors are near 1."""
    random = np.random.default_rng(seed)
    arrays = []
    for role, shape in shapes:
        fan_in = max(1, int(np.prod(shape[:-1])))
        mean, deviation = {"factor": (1.0, 0.3), "offset": (0.0, 0.3), "kernel": (0.0, fan_in**-0.5)}[role]
        arrays.append(random.normal(mean, deviation, shape).astype("float32"))
    return arrays


def random_images() -> np.ndarray:
    """Two smooth images of 48 x 64 pixels, `(2, 48, 64, 3)` in 0..255."""
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
        outputs[head] = np.asarray(model(random_images().astype("float32")))
        save(model, head)
    np.savez_compressed(REFERENCES / f"{name}.npz", pixels=random_images(), **outputs)


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


# Each option of the variant table: what timm's ConvNeXt is told, and what ours is.
SMALL = {"depths": (1, 1, 2, 1), "dims": (4, 8, 12, 16)}
OPTIONS = {
    "plain": ({}, {}),
    "conv_mlp": ({"conv_mlp": True}, {}),
    "overlap": ({"stem_type": "overlap"}, {"stem": "overlap", "stem_width": 4}),
    "overlap_tiered": ({"stem_type": "overlap_tiered"}, {"stem": "overlap", "stem_width": 8}),
    "overlap_act": ({"stem_type": "overlap_act", "conv_mlp": True}, {"stem": "overlap_gelu", "stem_width": 4}),
    "norm_first": ({"head_norm_first": True}, {"head_norm_first": True}),
    "hidden": ({"head_hidden_size": 10}, {"head_hidden_size": 10}),
    "v2": ({"use_grn": True, "ls_init_value": None}, {"use_grn": True, "layer_scale": False}),
    "v2_conv_mlp": (
        {"use_grn": True, "ls_init_value": None, "conv_mlp": True},
        {"use_grn": True, "layer_scale": False},
    ),
    "rms": ({"norm_layer": "rmsnorm2d", "conv_mlp": True}, {"norm": "rms"}),
    "simple": ({"norm_layer": "simplenorm2d", "conv_mlp": True}, {"norm": "simple"}),
    "epsilon": ({"norm_eps": 1e-2}, {"epsilon": 1e-2}),
    "silu": ({"act_layer": "silu", "kernel_sizes": (7, 5, 5, 3)}, {"activation": "silu", "kernel_sizes": (7, 5, 5, 3)}),
    "gelu_tanh": ({"act_layer": "gelu_tanh"}, {"activation": "gelu_tanh"}),
}
TRAINING = {
    "rate": 1e-3,
    "weight_decay": 0.05,
    "layer_decay": 0.7,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "labels": [1, 3],
    "steps": 20,
}
ISOTROPIC = {"depths": (3,), "dims": (8,), "patch_size": 16, "stem_norm": False, "kernel_sizes": (7,)}
STRIDES = (8, 16)


def normalized(statistics=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
    """The images as PyTorch's models take them: `(2, 3, 48, 64)`."""
    import torch

    mean, std = (np.array(row) * 255 for row in statistics)
    return torch.tensor(((random_images() - mean) / std).transpose(0, 3, 1, 2).astype("float32"))


def randomised(module):
    """A PyTorch module in evaluation with `random_weights` in every parameter."""
    import torch

    def role(name, shape):
        factors = ("gamma", "layer_scale", "layer_scale_parameter")
        if name.endswith("bias") or name.endswith("grn.beta"):
            return "offset"
        return "factor" if len(shape) == 1 or name.rsplit(".")[-1] in factors or ".grn." in name else "kernel"

    with torch.no_grad():
        for seed, (name, parameter) in enumerate(module.named_parameters()):
            shape = tuple(parameter.shape) or (1,)
            # PyTorch keeps the outputs of a kernel first, `random_weights` expects them last.
            (values,) = random_weights([(role(name, shape), (*shape[1:], shape[0]))], seed)
            parameter.copy_(torch.tensor(np.moveaxis(values, -1, 0).reshape(parameter.shape)))
    return module.eval()


def hooked(module, places: dict, inputs) -> dict[str, np.ndarray]:
    """The module's output as `logits`, and those of its parts in channels-last order."""
    import torch

    found, handles = {}, []
    for name, part in places.items():
        handles.append(part.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out})))
    with torch.no_grad():
        logits = module(inputs)
    for handle in handles:
        handle.remove()
    logits = getattr(logits, "logits", logits)
    logits = getattr(logits, "pooler_output", logits)
    arrays = {name: np.ascontiguousarray(tensor.numpy().transpose(0, 2, 3, 1)) for name, tensor in found.items()}
    return {**arrays, "logits": logits.numpy()}


def write(name: str, tensors: dict, arrays: dict) -> None:
    """One reference: the file as the peer publishes it, and what the peer computed."""
    import safetensors.torch

    tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
    safetensors.torch.save_file(tensors, REFERENCES / f"{name}.safetensors")
    np.savez_compressed(REFERENCES / f"{name}.npz", **arrays)


def timm_model(option: str, **arguments):
    from timm.models.convnext import ConvNeXt

    return randomised(ConvNeXt(**SMALL, num_classes=CLASSES, **{**OPTIONS[option][0], **arguments}))


def timm_places(model) -> dict:
    return {"stem": model.stem, **{f"stage_{number}": stage for number, stage in enumerate(model.stages)}}


def timm() -> None:
    """Every option of the variant table, and the dilated forms of the plain model."""
    for option in OPTIONS:
        model = timm_model(option)
        arrays = hooked(model, timm_places(model), normalized())
        if option == "plain":
            for stride in STRIDES:
                dilated = timm_model(option, output_stride=stride)
                outputs = hooked(dilated, timm_places(dilated), normalized())
                arrays |= {f"{key}_stride_{stride}": value for key, value in outputs.items()}
        write(f"timm_{option}", model.state_dict(), arrays)


def depth_of(name: str) -> int:
    """Returns the depth of a parameter by timm's name, as ConvNeXt V2 counts it: stem 0, one per block, head last."""
    words = name.split(".")
    if words[0] != "stages":
        return 0 if words[0] == "stem" else sum(SMALL["depths"]) + 1
    block = int(words[3]) if words[2] == "blocks" else 0
    return sum(SMALL["depths"][: int(words[1])]) + block + 1


def timm_training() -> None:
    """Gradients, losses and weights of twenty steps of fine-tuning by PyTorch's AdamW, as `TRAINING_NAMES` says."""
    import torch

    model = timm_model("plain")
    groups = []
    for name, parameter in model.named_parameters():
        rate = TRAINING["rate"] * TRAINING["layer_decay"] ** (depth_of("head") - depth_of(name))
        decay = TRAINING["weight_decay"] if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, eps=1e-7)
    targets, losses = torch.tensor(TRAINING["labels"]), []
    for step in range(TRAINING["steps"]):
        optimizer.zero_grad()
        smoothing = TRAINING["label_smoothing"]
        loss = torch.nn.functional.cross_entropy(model(normalized()), targets, label_smoothing=smoothing)
        loss.backward()
        if step == 0:
            gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
            write("timm_gradients", gradients, {"loss": loss.detach().numpy()})
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    write("timm_trained", model.state_dict(), {"losses": np.array(losses)})


def meta() -> None:
    """Meta's original names, which timm's own filter must turn back into the model that they were made of."""
    import re

    import torch
    from timm.models.convnext import checkpoint_filter_fn

    rows = [
        (r"^stem\.(\d)", r"downsample_layers.0.\1"),
        (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"),
        (r"\.blocks\.", "."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc", ".pwconv"),
        (r"\.mlp\.grn\.weight", ".grn.gamma"),
        (r"\.mlp\.grn\.bias", ".grn.beta"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    ]
    for option in ("plain", "v2"):
        model = timm_model(option)
        tensors = {}
        for name, tensor in model.state_dict().items():
            for pattern, replacement in rows:
                name = re.sub(pattern, replacement, name)
            tensors[name] = tensor.reshape(1, 1, 1, -1) if ".grn." in name else tensor
        back = checkpoint_filter_fn(dict(tensors), model)
        if not all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items()):
            raise SystemExit("timm does not read what is written in Meta's names.")
        tensors["norms.0.weight"] = torch.ones(3)  # Self-supervised files hold such heads too.
        write(f"meta_{option}", tensors, hooked(model, timm_places(model), normalized()))


def meta_isotropic() -> None:
    """The isotropic model of Meta's repository, written from the paper because no peer has it."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.gamma = nn.Parameter(torch.ones(width))

        def forward(self, inputs):
            x = self.norm(self.dwconv(inputs).permute(0, 2, 3, 1))
            return inputs + (self.gamma * self.pwconv2(nn.functional.gelu(self.pwconv1(x)))).permute(0, 3, 1, 2)

    class Isotropic(nn.Module):
        def __init__(self, depth, width):
            super().__init__()
            self.stem = nn.Conv2d(3, width, 16, stride=16)
            self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
            self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, CLASSES)

        def forward(self, inputs):
            return self.head(self.norm(self.blocks(self.stem(inputs)).mean((2, 3))))

    model = randomised(Isotropic(ISOTROPIC["depths"][0], ISOTROPIC["dims"][0]))
    arrays = hooked(model, {"stem": model.stem, "stage_0": model.blocks}, normalized())
    write("meta_isotropic", model.state_dict(), arrays)


def torchvision() -> None:
    """Torchvision's ConvNeXt."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    dims = (*SMALL["dims"], None)
    settings = [CNBlockConfig(dims[i], dims[i + 1], depth) for i, depth in enumerate(SMALL["depths"])]
    model = randomised(ConvNeXt(settings, num_classes=CLASSES))
    stages = {f"stage_{number}": model.features[2 * number + 1] for number in range(4)}
    write("torchvision", model.state_dict(), hooked(model, {"stem": model.features[0], **stages}, normalized()))


def transformers() -> None:
    """Hugging Face's ConvNext, ConvNextV2 and DINOv3ConvNext."""
    import transformers as hf

    sizes = {"depths": list(SMALL["depths"]), "hidden_sizes": list(SMALL["dims"]), "num_labels": CLASSES}
    for name, kind in (("transformers_plain", "ConvNext"), ("transformers_v2", "ConvNextV2")):
        model = randomised(getattr(hf, f"{kind}ForImageClassification")(getattr(hf, f"{kind}Config")(**sizes)))
        base = getattr(model, kind.lower())
        stages = {f"stage_{number}": stage for number, stage in enumerate(base.encoder.stages)}
        write(name, model.state_dict(), hooked(model, {"stem": base.embeddings, **stages}, normalized()))
    sizes.pop("num_labels")
    model = randomised(hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(**sizes)))
    write("transformers_dinov3", model.state_dict(), hooked(model, {}, normalized()))


def open_clip() -> None:
    """An OpenCLIP model around timm's smallest ConvNeXt; the logits here are the trunk's features."""
    import torch
    from open_clip.model import CLIP

    vision = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"}
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 2, "layers": 1}
    model = randomised(CLIP(8, {**vision, "image_size": 64}, text))
    trunk = model.visual.trunk
    with torch.no_grad():
        features = trunk(normalized())
    write("open_clip", model.state_dict(), {"logits": features.numpy()})


RECIPES = {
    "crop": {"size": 64, "crop_pct": 0.875, "resize_mode": "shortest", "interpolation": "bicubic"},
    "tight": {"size": 60, "crop_pct": 0.95, "resize_mode": "shortest", "interpolation": "bicubic"},
    "squash": {"size": 64, "crop_pct": 1.0, "resize_mode": "squash", "interpolation": "bicubic"},
    "bilinear": {"size": 56, "crop_pct": 1.0, "resize_mode": "shortest", "interpolation": "bilinear"},
}


def odd_images(folder: Path) -> list[Path]:
    """Twenty PNG files of all kinds: modes, shapes, sizes, transparency, an orientation in the EXIF data."""
    from PIL import Image

    random = np.random.default_rng(3)
    sizes = [(97, 131), (131, 97), (300, 60), (60, 300), (30, 20), (64, 64), (73, 73), (500, 401), (9, 7), (65, 64)]
    modes = ["RGB", "L", "RGBA", "P", "LA", "1", "RGB", "RGBA", "L", "RGB"]
    paths = []
    for number, (size, mode) in enumerate(zip(sizes * 2, modes + modes[::-1], strict=True)):
        noise = random.integers(0, 256, (max(2, size[1] // 5), max(2, size[0] // 5), 4), "uint8")
        image = Image.fromarray(noise, "RGBA").resize(size, Image.Resampling.BILINEAR).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        paths.append(folder / f"{number}.png")
        image.save(paths[-1], exif=exif)
    return paths


def timm_transforms() -> None:
    """Timm's evaluation transform of the odd images, as pixels."""
    import tempfile

    from PIL import Image
    from timm.data import create_transform

    modes = {"shortest": "center", "squash": "squash"}
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = odd_images(Path(folder))
        for name, transform in RECIPES.items():
            transform = create_transform(
                (3, transform["size"], transform["size"]),
                interpolation=transform["interpolation"],
                crop_pct=transform["crop_pct"],
                crop_mode=modes[transform["resize_mode"]],
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
            )
            pixels = [transform(Image.open(path).convert("RGB")).numpy().transpose(1, 2, 0) * 255 for path in paths]
            arrays[name] = np.rint(np.stack(pixels)).astype("uint8")
    np.savez_compressed(REFERENCES / "timm_transforms.npz", **arrays)


def transformers_transforms() -> None:
    """The pixels that transformers' processor of ConvNeXt makes of the odd images, by Pillow."""
    import tempfile

    from PIL import Image
    from transformers import ConvNextImageProcessorPil

    transform = RECIPES["crop"]
    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": transform["size"]},
        crop_pct=transform["crop_pct"],
        resample=3,
        do_normalize=False,
        do_rescale=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        images = [Image.open(path).convert("RGB") for path in odd_images(Path(folder))]
        pixels = [processor(image)["pixel_values"][0].transpose(1, 2, 0) for image in images]
    np.savez_compressed(REFERENCES / "transformers_transforms.npz", crop=np.stack(pixels).astype("uint8"))


PEERS = {
    "keras": keras_3,
    "tf_keras": keras_2,
    "timm": timm,
    "timm_training": timm_training,
    "timm_transforms": timm_transforms,
    "meta": meta,
    "meta_isotropic": meta_isotropic,
    "torchvision": torchvision,
    "transformers": transformers,
    "transformers_transforms": transformers_transforms,
    "open_clip": open_clip,
}


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    REFERENCES.mkdir(exist_ok=True)
    for peer in sys.argv[1:] or PEERS:
        PEERS[peer]()
