"""Writes `tests/references/hub/`: small repositories of unusual architectures by timm, transformers and OpenCLIP.

    python scripts/make_hub_references.py              # in an environment that has the peers
    python scripts/make_hub_references.py --random 100 --output FOLDER

Each folder also contains what the peer computes from `image.png` with it: `pixels` in 0..255 as its own processor gives
them, channels last, and `outputs` as scores (softmax or sigmoid) or features. With `--random`, folders of random kinds
are written, to be compared by `scripts/compare_hub.py`. For segmentation, `outputs` are every third logit in both
directions, and `labels` the classes at the size of the image.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from make_references import REFERENCES, randomised

HUB = REFERENCES / "hub"
DEPTHS, DIMS = [1, 1, 2, 1], [4, 8, 12, 16]
OWN = {"depths": DEPTHS, "dims": DIMS}
NAMES = ["a red fox", "<b>owl</b>", "Bär", "owl", "42"]
# timm: architecture, model_args, pretrained_cfg, and keys of the top level.
TIMM: dict[str, tuple[str, dict, dict, dict]] = {
    "v2": (
        "convnextv2_atto",
        {"depths": [1, 2, 1, 1], "dims": [8, 12, 16, 20], "num_classes": 5},
        {"input_size": [3, 72, 96], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "crop_pct": 0.9},
        {"label_names": {"0": "fox", "1": "owl", "4": "bear"}, "label_descriptions": {"fox": "a red fox"}},
    ),
    "grey_relu": (
        "convnext_tiny",
        {**OWN, "in_chans": 1, "act_layer": "relu", "num_classes": 3, "use_grn": True},
        {"input_size": [1, 61, 61], "mean": [0.3], "std": [0.7], "interpolation": "bilinear", "crop_pct": 0.8},
        {"label_names": NAMES[:3]},
    ),
    "headless_max": (
        "convnext_tiny_hnf",
        {**OWN, "global_pool": "max", "num_classes": 0, "norm_eps": 1e-3},
        {"input_size": [3, 64, 64], "crop_mode": "squash", "crop_pct": 1.0},
        {},
    ),
    "multi_label": (
        "convnext_zepto_rms_ols",
        {**OWN, "num_classes": 4, "kernel_sizes": [7, 5, 5, 3]},
        {"input_size": [3, 65, 65], "mean": [0.5], "std": [0.5], "interpolation": "nearest"},
        {"label_names": NAMES[:4], "problem_type": "multi_label_classification"},
    ),
    "biasless_border": (
        "convnext_atto",
        {**OWN, "conv_bias": False, "patch_size": 2, "global_pool": "avgmax", "num_classes": 6, "act_layer": "mish"},
        {"input_size": [3, 80, 64], "crop_mode": "border", "crop_pct": 0.95, "interpolation": "lanczos"},
        {},
    ),
    "both_poolings": (
        "convnext_pico_ols",
        {**OWN, "head_norm_first": True, "global_pool": "catavgmax", "num_classes": 2, "ls_init_value": None},
        {"input_size": [3, 64, 64], "crop_pct": 0.77},
        {"num_classes": 2},
    ),
    "dilated_hidden": (
        "convnext_large_mlp",
        {**OWN, "head_hidden_size": 10, "output_stride": 8, "act_layer": "quick_gelu", "num_classes": 3},
        {"input_size": [3, 96, 96], "license": "cc-by-4.0"},
        {"label_names": NAMES[:3]},
    ),
    "unpooled": ("convnext_femto", {**OWN, "global_pool": "", "num_classes": 3}, {"input_size": [3, 64, 64]}, {}),
}
# transformers: model type, configuration, processor and its configuration, largest shard.
SMALL = {"depths": DEPTHS, "hidden_sizes": DIMS}
TRANSFORMERS: dict[str, tuple[str, dict, str, dict, str]] = {
    "v1_cropped": (
        "convnext",
        {**SMALL, "id2label": dict(enumerate(NAMES)), "layer_norm_eps": 1e-2},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 97}, "crop_pct": 0.8, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]},
        "",
    ),
    "v2_multi_label": (
        "convnextv2",
        {**SMALL, "num_labels": 3, "problem_type": "multi_label_classification", "hidden_act": "silu"},
        "ViTImageProcessor",
        {"size": {"height": 72, "width": 96}},
        "",
    ),
    "headless_shards": (
        "convnext",
        {**SMALL, "headless": True, "layer_scale_init_value": 0.0},
        "BitImageProcessor",
        {"size": {"shortest_edge": 81}, "crop_size": {"height": 66, "width": 66}},
        "20KB",
    ),
    "dinov3": (
        "dinov3_convnext",
        {**SMALL, "layer_norm_eps": 1e-3},
        "DINOv3ViTImageProcessor",
        {"size": {"height": 96, "width": 96}},
        "",
    ),
    "bfloat16_patch_2": (
        "convnextv2",
        {**SMALL, "num_labels": 4, "patch_size": 2, "dtype": "bfloat16"},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 64}, "do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60, 60, 60]},
        "",
    ),
    "gray": (
        "convnext",
        {**SMALL, "num_channels": 1, "num_labels": 2, "hidden_act": "gelu_new"},
        "ViTImageProcessor",
        {"size": {"height": 64, "width": 64}, "image_mean": [0.4], "image_std": [0.3], "resample": 3},
        "",
    ),
    "large_squashed": (
        "convnext",
        {**SMALL, "num_labels": 3},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 384}, "resample": 2},
        "",
    ),
}
# WD taggers: model_args and pretrained_cfg.
TAGGERS: dict[str, tuple[dict, dict]] = {
    "wd": (
        {**OWN, "act_layer": "gelu_tanh", "num_classes": 40},
        {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0},
    ),
}
# UPerNet of transformers: the backbone's model type and configuration, the whole configuration, the processor's, shard.
AUXILIARY_12 = {"auxiliary_channels": 12, "auxiliary_in_channels": 12}
UPERNET: dict[str, tuple[str, dict, dict, dict, str]] = {
    "v1": (
        "convnext",
        SMALL,
        {"hidden_size": 16, "auxiliary_channels": 8, "id2label": dict(enumerate(NAMES))},
        {"size": {"height": 64, "width": 64}, "do_reduce_labels": True},
        "",
    ),
    "wide_no_auxiliary": (
        "convnext",
        {**SMALL, "hidden_act": "gelu_new", "layer_norm_eps": 1e-2},
        {"hidden_size": 20, "use_auxiliary_head": False, "pool_scales": [1, 4], "num_labels": 3},
        {"size": {"height": 48, "width": 80}, "resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3},
        "",
    ),
    "v2_concatenated": (
        "convnextv2",
        {**SMALL, "hidden_sizes": [8, 12, 16, 20]},
        {"hidden_size": 12, "auxiliary_channels": 8, "auxiliary_num_convs": 2, "auxiliary_concat_input": True},
        {"size": {"height": 77, "width": 61}},
        "20KB",
    ),
    "dinov3": (
        "dinov3_convnext",
        {**SMALL, "layer_norm_eps": 1e-3},
        {"hidden_size": 8, "auxiliary_channels": 4, "num_labels": 5},
        {"size": {"height": 64, "width": 64}},
        "",
    ),
    "gray_patch_2": (
        "convnext",
        {**SMALL, "num_channels": 1, "patch_size": 2},
        {"hidden_size": 8, "pool_scales": [1, 2, 3, 6, 7], "num_labels": 4, "use_auxiliary_head": False},
        {"size": {"height": 40, "width": 64}, "image_mean": [0.4], "image_std": [0.3]},
        "",
    ),
    "v2_bfloat16": (
        "convnextv2",
        {**SMALL, "hidden_act": "silu", "dtype": "bfloat16"},
        {
            "hidden_size": 16,
            "auxiliary_num_convs": 0,
            "auxiliary_channels": 12,
            "auxiliary_in_channels": 12,
            "num_labels": 50,
        },
        {"size": {"height": 33, "width": 35}, "do_rescale": False, "image_mean": [120] * 3, "image_std": [60] * 3},
        "",
    ),
}
# AutoBackbone of transformers: model type and configuration.
BACKBONES: dict[str, tuple[str, dict]] = {
    "v1": ("convnext", {**SMALL, "out_features": ["stage2", "stage4"]}),
    "v2": ("convnextv2", {**SMALL, "out_features": ["stage1", "stage2", "stage3"], "hidden_act": "silu"}),
    "dinov3": ("dinov3_convnext", {**SMALL, "out_features": ["stage3"], "layer_norm_eps": 1e-3}),
}
# OpenCLIP: its model_cfg and preprocess_cfg, and the type of the file.
TEXT = {"context_length": 16, "vocab_size": 520, "width": 16, "heads": 2, "layers": 2}
OPEN_CLIP: dict[str, tuple[dict, dict]] = {
    "linear": ({"timm_proj": "linear"}, {}),
    "mlp_half": ({"timm_proj": "mlp"}, {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}),
    "wide": ({"timm_proj": "linear", "image_size": [64, 96]}, {"interpolation": "bilinear"}),
    "custom_text": ({"timm_proj": "mlp", "custom_text": True, "quick_gelu": True}, {"resize_mode": "longest"}),
    "sigmoid_loss": (
        {"timm_proj": "linear", "timm_proj_bias": True, "timm_pool": "max", "init_logit_bias": -10, "mlp_ratio": 2},
        {"resize_mode": "longest", "interpolation": "bilinear"},
    ),
}
TOKENS = np.array([[518, 5, 77, 300, 519, *[0] * 11], [518, 9, 519, *[0] * 13]])


def image():
    """The one image, of odd height and width, in RGB, with hard edges and soft ones."""
    from PIL import Image

    random = np.random.default_rng(3)
    soft = Image.fromarray(random.integers(0, 256, (9, 13, 3), "uint8")).resize((127, 93), Image.Resampling.BICUBIC)
    pixels = np.array(soft)
    pixels[20:41, 30:77] = random.integers(0, 256, (21, 47, 3), "uint8")
    return Image.fromarray(pixels)


def in_levels(values, mean, std) -> np.ndarray:
    """Converts normalized pixels `(C, H, W)` as `(H, W, C)` in 0..255; whole ones as uint8."""
    mean, std = (np.reshape(row, (-1, 1, 1)) for row in (mean, std))
    levels = (np.asarray(values, "float64") * std + mean).transpose(1, 2, 0) * 255
    whole = np.abs(levels - np.rint(levels)).max() < 1e-2
    return np.rint(levels).astype("uint8") if whole else levels.astype("float16")


def scores(logits, kind: str | None):
    import torch

    functions = {"multi_label_classification": torch.sigmoid, "regression": lambda values: values}
    return functions.get(kind or "", lambda values: values.softmax(1))(logits)


def make_timm(output: Path, architecture: str, arguments: dict, facts: dict, top: dict) -> None:
    """A folder by `timm.models.save_for_hf`, and what timm computes after it has read the folder again."""
    import timm
    import timm.models
    import torch

    # By its own function: `create_model` drops what is None, the reader of folders does not.
    model = randomised(timm.models.model_entrypoint(architecture)(**arguments))
    model.pretrained_cfg = {"architecture": architecture, **facts}
    model.pretrained_cfg.setdefault("first_conv", "stem.0")
    config = {"model_args": {**arguments, "num_classes": model.num_classes}, **top}
    timm.models.save_for_hf(
        model, output, model_config=config, model_args=config["model_args"], safe_serialization=True
    )
    model = timm.create_model(f"local-dir:{output}", pretrained=True).eval()
    data = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**data)
    pixels = transform(image().convert("L" if arguments.get("in_chans") == 1 else "RGB"))
    with torch.no_grad():
        outputs = model(pixels[None])
    if model.num_classes:
        outputs = scores(outputs, top.get("problem_type"))
    if outputs.ndim == 4:
        outputs = outputs.permute(0, 2, 3, 1)
    arrays = {"pixels": in_levels(pixels, data["mean"], data["std"]), "outputs": outputs.numpy()}
    np.savez_compressed(output.with_suffix(".npz"), **arrays)


def make_tagger(output: Path, arguments: dict, facts: dict) -> None:
    """A folder by timm with a `selected_tags.csv` like those of the WD taggers, and the scores of their procedure.

    The procedure: opacity on white, white square, timm's transform, channels in reverse, sigmoid (neggles/wdv3-timm).
    """
    import timm
    import timm.models
    import torch
    from PIL import Image

    model = randomised(timm.models.model_entrypoint("convnext_base")(**arguments))
    model.pretrained_cfg = {"architecture": "convnext_base", "first_conv": "stem.0", **facts}
    timm.models.save_for_hf(model, output, model_args=arguments, safe_serialization=True)
    categories = [9] * 4 + [4 if number % 3 == 0 else 0 for number in range(4, arguments["num_classes"])]
    rows = [f"{9000 + number},tag_{number},{kind},{100 - number}" for number, kind in enumerate(categories)]
    (output / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows, ""]))
    model = timm.create_model(f"local-dir:{output}", pretrained=True).eval()
    data = timm.data.resolve_data_config({}, model=model)
    edge = max(image().size)
    square = Image.new("RGB", (edge, edge), (255, 255, 255))
    square.paste(image(), ((edge - image().width) // 2, (edge - image().height) // 2))
    pixels = timm.data.create_transform(**data)(square)[[2, 1, 0]]
    with torch.no_grad():
        outputs = model(pixels[None]).sigmoid()
    levels = in_levels(pixels, data["mean"], data["std"])
    np.savez_compressed(output.with_suffix(".npz"), pixels=levels, outputs=outputs.numpy())


def make_transformers(output: Path, kind: str, options: dict, processor: str, facts: dict, shard: str) -> None:
    """A folder by `save_pretrained`, and what transformers computes after it has read the folder again."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

    options = dict(options)
    dtype, headless = options.pop("dtype", "float32"), options.pop("headless", False) or kind.startswith("dino")
    cls = AutoModel if headless else AutoModelForImageClassification
    model = randomised(cls.from_config(AutoConfig.for_model(kind, **options))).to(getattr(torch, dtype))
    model.save_pretrained(output, **({"max_shard_size": shard} if shard else {}))
    for path in output.iterdir():
        path.chmod(0o644)
    channels = options.get("num_channels", 3)
    facts = {"do_convert_rgb": True, **facts} if processor[0] == "B" else facts
    getattr(transformers, processor)(**facts).save_pretrained(output)
    model = cls.from_pretrained(output, dtype=torch.float32).eval()
    try:
        reading = AutoImageProcessor.from_pretrained(output, backend="pil")
    except (ValueError, AttributeError):  # DINOv3's has one form only.
        reading = AutoImageProcessor.from_pretrained(output)
    given = np.asarray(image().convert("L"))[..., None] if channels == 1 else image()
    extra = {"input_data_format": "channels_last"} if channels == 1 else {}
    pixels = reading(given, return_tensors="pt", **extra).pixel_values
    with torch.no_grad():
        outputs = model(pixels)
    found = outputs.pooler_output if headless else scores(outputs.logits, options.get("problem_type"))
    scale = 1.0 if reading.do_rescale else 1 / 255
    mean, std = (np.array(row) * scale for row in (reading.image_mean, reading.image_std))
    arrays = {"pixels": in_levels(pixels[0], mean, std), "outputs": found.numpy()}
    np.savez_compressed(output.with_suffix(".npz"), **arrays)


def randomise_statistics(model: Any) -> None:
    """Gives the statistics of batch norms random values."""
    import torch

    random = np.random.default_rng(5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.tensor(random.normal(size=buffer.shape)))
        if name.endswith("running_var"):
            buffer.copy_(torch.tensor(random.uniform(0.3, 3, buffer.shape)))


def make_upernet(output: Path, kind: str, backbone: dict, options: dict, facts: dict, shard: str) -> None:
    """A folder by `save_pretrained`, and what transformers computes after it has read the folder again."""
    import torch
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        SegformerImageProcessor,
        UperNetConfig,
        UperNetForSemanticSegmentation,
    )

    backbone = {**backbone, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    dtype, channels = backbone.pop("dtype", "float32"), backbone.get("num_channels", 3)
    config = UperNetConfig(backbone_config=AutoConfig.for_model(kind, **backbone), **options)
    model = randomised(UperNetForSemanticSegmentation(config))
    randomise_statistics(model)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(output, **({"max_shard_size": shard} if shard else {}))
    for path in output.iterdir():
        path.chmod(0o644)
    SegformerImageProcessor(**facts).save_pretrained(output)
    model = UperNetForSemanticSegmentation.from_pretrained(output, dtype=torch.float32).eval()
    reading = AutoImageProcessor.from_pretrained(output, backend="pil")
    given = np.asarray(image().convert("L"))[..., None] if channels == 1 else image()
    extra = {"input_data_format": "channels_last"} if channels == 1 else {}
    pixels = reading(given, return_tensors="pt", **extra).pixel_values
    with torch.no_grad():
        outputs = model(pixels)
    labels = reading.post_process_semantic_segmentation(outputs, target_sizes=[image().size[::-1]])[0]
    scale = 1.0 if reading.do_rescale else 1 / 255
    mean, std = (np.array(row) * scale for row in (reading.image_mean, reading.image_std))
    logits = outputs.logits.permute(0, 2, 3, 1).numpy()
    arrays = {"pixels": in_levels(pixels[0], mean, std), "outputs": logits[:, ::3, ::3]}
    np.savez_compressed(output.with_suffix(".npz"), **arrays, labels=labels.numpy().astype("uint8"))


def make_backbone(output: Path, kind: str, options: dict) -> None:
    """A folder by `save_pretrained`, and the feature maps of transformers after it has read the folder again."""
    import torch
    from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, ViTImageProcessor

    model = randomised(AutoBackbone.from_config(AutoConfig.for_model(kind, **options)))
    model.save_pretrained(output)
    for path in output.iterdir():
        path.chmod(0o644)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(output)
    model = type(model).from_pretrained(output).eval()
    pixels = AutoImageProcessor.from_pretrained(output, backend="pil")(image(), return_tensors="pt").pixel_values
    with torch.no_grad():
        maps = model(pixels).feature_maps
    named = {f"outputs_{index}": row.permute(0, 2, 3, 1).numpy() for index, row in enumerate(maps)}
    np.savez_compressed(output.with_suffix(".npz"), pixels=in_levels(pixels[0], [0.5] * 3, [0.5] * 3), **named)


def make_open_clip(output: Path, options: dict, facts: dict) -> None:
    """A folder in the form of OpenCLIP's own `push_to_hf_hub`, and what OpenCLIP computes after it has read it."""
    import open_clip
    import safetensors.torch
    import torch

    vision = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
    vision |= {key: value for key, value in options.items() if key in vision or key == "timm_proj_bias"}
    model_config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": dict(TEXT)}
    model_config |= {k: v for k, v in options.items() if k in ("custom_text", "quick_gelu", "init_logit_bias")}
    if "mlp_ratio" in options:
        model_config["text_cfg"]["mlp_ratio"] = options["mlp_ratio"]
    output.mkdir(parents=True)
    content = {"model_cfg": model_config, "preprocess_cfg": facts}
    (output / "open_clip_config.json").write_text(json.dumps(content, indent=2))
    with tempfile.TemporaryDirectory() as folder:  # Its loader wants weights to start with.
        name = Path(folder).name
        (Path(folder) / f"{name}.json").write_text(json.dumps(model_config))
        open_clip.add_model_config(folder)
        model = randomised(open_clip.create_model(name, pretrained_image=False))
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
    tensors = {key: value.half().contiguous().clone() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(tensors, output / "open_clip_model.safetensors")
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{output}")
    model = model.float().eval()
    pixels = transform(image())
    with torch.no_grad():
        images, texts = model.encode_image(pixels[None]), model.encode_text(torch.tensor(TOKENS))
        logits = model.get_logits(pixels[None], torch.tensor(TOKENS))[0]
    mean, std = facts.get("mean", open_clip.OPENAI_DATASET_MEAN), facts.get("std", open_clip.OPENAI_DATASET_STD)
    arrays = {"pixels": in_levels(pixels, mean, std), "outputs": images.numpy()}
    np.savez_compressed(output.with_suffix(".npz"), **arrays, texts=texts.numpy(), logits=logits.numpy())


def make(output: Path, form: str, row: Any) -> None:
    shutil.rmtree(output, ignore_errors=True)
    MAKERS[form](output, *row)


MAKERS = {
    "timm": make_timm,
    "tagger": make_tagger,
    "transformers": make_transformers,
    "upernet": make_upernet,
    "backbone": make_backbone,
    "open_clip": make_open_clip,
}


def random_timm(random: np.random.Generator) -> tuple[str, dict, dict, dict]:
    """An odd but legitimate kind."""

    def one(*choices):
        return choices[random.integers(len(choices))]

    def some(key, *choices):
        return {key: one(*choices)} if random.random() < 0.4 else {}

    names = ("convnext_tiny", "convnextv2_nano", "convnext_atto_ols", "convnext_atto_rms", "convnext_tiny_hnf")
    names += (
        "convnext_zepto_rms",
        "convnext_zepto_rms_ols",
        "convnext_nano_ols",
        "convnext_large_mlp",
        "test_convnext3",
    )
    name = one(*names)
    arguments = {"depths": [int(random.integers(1, 3)) for _ in range(4)]}
    arguments["dims"] = [int(4 * random.integers(1, 7)) for _ in range(4)]
    arguments |= {"num_classes": int(random.integers(0, 9)), **some("in_chans", 1, 3, 3)}
    arguments |= some("act_layer", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "mish", "hard_mish")
    if "act_layer" not in arguments and "zepto" not in name:
        arguments |= some(
            "act_layer", "sigmoid", "tanh", "hard_sigmoid", "hard_swish", "identity", "quick_gelu", "swish"
        )
    if name.startswith("convnext_zepto_rms_ols"):
        arguments.pop("act_layer", None)
    arguments |= (
        some("kernel_sizes", 3, 5, [7, 5, 5, 3]) | some("ls_init_value", None, 0.1) | some("use_grn", True, False)
    )
    arguments |= some("norm_eps", None, 1e-3, 1e-5) | some("conv_bias", False) | some("output_stride", 8, 16)
    if "ols" not in name:
        arguments |= some("patch_size", 2, 8) | some("stem_type", "overlap", "overlap_tiered")
    if "output_stride" in arguments:
        arguments.pop("patch_size", None)
    if name not in ("convnext_large_mlp", "convnext_tiny_hnf"):
        arguments |= some("head_norm_first", True)
        if "head_norm_first" not in arguments:
            arguments |= some("head_hidden_size", 7)
    arguments |= some("global_pool", "avg", "max", "avgmax", "fast")
    size = [int(random.integers(64, 110)) for _ in range(2)]
    size = size if random.random() < 0.4 else [size[0]] * 2
    facts: dict = {"input_size": [arguments.get("in_chans", 3), *size]}
    facts |= some("crop_pct", 0.7, 0.875, 1.0) | some("crop_mode", "center", "squash", "border")
    facts |= some("interpolation", "bilinear", "bicubic", "nearest", "lanczos")
    facts |= some("mean", [0.5], [0.1, 0.2, 0.3]) | some("std", [0.5], [0.3, 0.2, 0.1])
    if arguments.get("in_chans") == 1:
        facts = {key: value[:1] if key in ("mean", "std") else value for key, value in facts.items()}
    top: dict = some("problem_type", "multi_label_classification", "single_label_classification")
    if arguments["num_classes"]:
        top |= {"label_names": [f"class {number}" for number in range(arguments["num_classes"])]}
    return name, arguments, facts, top


def random_transformers(random: np.random.Generator) -> tuple[str, dict, str, dict, str]:
    """An odd but legitimate kind."""

    def one(*choices):
        return choices[random.integers(len(choices))]

    kind = one("convnext", "convnextv2", "dinov3_convnext")
    stages = int(random.integers(2, 6)) if kind != "dinov3_convnext" else 4
    options: dict = {"depths": [int(random.integers(1, 3)) for _ in range(stages)]}
    options["hidden_sizes"] = [int(4 * random.integers(1, 7)) for _ in range(stages)]
    options |= {"hidden_act": one("gelu", "gelu_new", "silu", "gelu_pytorch_tanh", "swish")}
    options |= {"layer_norm_eps": one(1e-12, 1e-6, 1e-3)}
    if kind != "dinov3_convnext":
        options |= {"num_stages": stages, "patch_size": one(4, 4, 2, 8), "layer_scale_init_value": one(1e-6, 0.0, 0.1)}
        options |= {"num_labels": int(random.integers(2, 9)), "headless": one(True, False, False)}
        options |= {
            "problem_type": one(None, "single_label_classification", "multi_label_classification", "regression")
        }
    options |= {"dtype": one("float32", "bfloat16", "float16")}
    size = int(random.integers(128, 300))
    processor, facts = one(
        ("ConvNextImageProcessor", {"size": {"shortest_edge": size}, "crop_pct": one(0.7, 0.875, 1.0)}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("ViTImageProcessor", {"size": {"height": size, "width": size + 13}}),
        ("BitImageProcessor", {"size": {"shortest_edge": size + 11}, "crop_size": {"height": size, "width": size}}),
        ("DINOv3ViTImageProcessor", {"size": {"height": size, "width": size}}),
    )
    facts |= {
        "resample": one(2, 3),
        "image_mean": one([0.5] * 3, [0.4, 0.5, 0.6]),
        "image_std": one([0.5] * 3, [0.2] * 3),
    }
    return kind, options, processor, facts, one("", "20KB")


TABLES = {
    "timm": TIMM,
    "tagger": TAGGERS,
    "transformers": TRANSFORMERS,
    "upernet": UPERNET,
    "backbone": BACKBONES,
    "open_clip": OPEN_CLIP,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HUB)
    parser.add_argument("--random", type=int, default=0, help="how many random folders to write instead")
    parser.add_argument("names", nargs="*", help="of the table; all by default")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    image().save(options.output / "image.png", optimize=True)
    for number in range(options.random):
        random = np.random.default_rng(1000 + number)
        form = "timm" if number % 2 else "transformers"
        row = random_timm(random) if form == "timm" else random_transformers(random)
        (options.output / f"{form}_{number}.txt").write_text(repr(row))
        make(options.output / f"{form}_{number}", form, row)
    for form, table in ({} if options.random else TABLES).items():
        for name, row in table.items():
            if not options.names or f"{form}_{name}" in options.names:
                make(options.output / f"{form}_{name}", form, row)


if __name__ == "__main__":
    main()
