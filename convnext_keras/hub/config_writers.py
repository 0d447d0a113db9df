"""Writing of the config files and tensor names of each format.

A feature that a format does not support raises an error with the formats that do; `keras` supports all.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from convnext_keras.checkpoints.key_mapping import Key, candidate_keys
from convnext_keras.checkpoints.publisher_layouts import LAYOUTS
from convnext_keras.checkpoints.saving import LazyTensor
from convnext_keras.configs import AUXILIARY_LOSS_WEIGHT, ConvNeXtConfig, SegmentationConfig
from convnext_keras.data.augmentation import IGNORE_INDEX
from convnext_keras.data.transforms import ImageTransform, get_statistics
from convnext_keras.hub import image_processors, native, timm, transformers, upernet
from convnext_keras.hub.model_info import METADATA_FIELDS, ModelInfo
from convnext_keras.problem_types import SINGLE_LABEL

Files = dict[str, dict[str, Any]]
ACTIVATION_TO_TIMM = {word: name for name, word in reversed(timm.ACTIVATIONS.items())}
ACTIVATION_TO_TRANSFORMERS = {word: name for name, word in reversed(transformers.ACTIVATIONS.items())}


class UnsupportedByFormatError(ValueError):
    """Error for a feature that a format does not support."""


def require_supported(is_said: bool, format: str, what: str) -> None:
    """Raises unless a format can say something."""
    if not is_said:
        others = {"timm": "keras, and for patch stems of other sizes transformers", "transformers": "timm or keras"}
        raise UnsupportedByFormatError(f"The format {format!r} cannot say {what}. Use {others.get(format, 'keras')}.")


def class_name_list(description: ModelInfo) -> list[tuple[str, str]] | None:
    """Returns identifier and name of each class."""
    labels = description.labels
    return [*labels] if isinstance(labels, tuple) and labels else None


def write_timm_config(description: ModelInfo) -> Files:
    """Builds `config.json` in timm's format, in a form that transformers reads too."""
    variant = description.variant
    require_supported(description.clip is None, "timm", "a ConvNeXt-CLIP")
    require_supported(description.segmentation is None, "timm", "a segmentation model")
    architecture, arguments = timm_arguments(variant)
    if description.transform.channels != 3:
        arguments["in_chans"] = description.transform.channels
    if description.output_stride not in (None, variant.minimum_size) or variant.minimum_size > 32:
        arguments["output_stride"] = description.output_stride or variant.minimum_size
        require_supported(
            arguments["output_stride"] in (8, 16, 32), "timm", f"output_stride={arguments['output_stride']}"
        )
    names = class_name_list(description)
    facts = {**timm_transform(description.transform), "num_classes": description.classes}
    facts |= {"first_conv": "stem.0", "classifier": "head.fc"}
    content = {
        "architecture": architecture,
        "num_classes": description.classes,
        "num_features": variant.dims[-1],
        "global_pool": arguments.get("global_pool", "avg"),
        "model_args": arguments,
        "pretrained_cfg": facts | ({"license": description.license} if description.license else {}),
    }
    if names:
        content["label_names"] = [identifier for identifier, _ in names]
        described = {identifier: name for identifier, name in names if identifier != name}
        content |= {"label_descriptions": described} if described else {}
    if description.classes and description.problem_type != SINGLE_LABEL:
        content["problem_type"] = description.problem_type
    return {"config.json": content}


def timm_arguments(variant: ConvNeXtConfig, form: str = "timm") -> tuple[str, dict[str, Any]]:
    """Returns timm's architecture name, and the arguments in which the model differs from it."""

    def plain(row: ConvNeXtConfig) -> ConvNeXtConfig:
        return row._replace(**{**dict.fromkeys(METADATA_FIELDS), "head_pooling": "avg"})

    stem_type = timm.parse_stem_type(variant)
    require_supported(len(variant.depths) == 4, form, f"{len(variant.depths)} stages")
    require_supported(stem_type is not None, form, f"a stem of inner width {variant.stem_width}")
    require_supported(variant.stem_norm, form, "a stem without a norm")
    require_supported(variant.head_epsilon is None, form, f"head_epsilon={variant.head_epsilon}")
    small_patch = variant.patch_size == 2 and variant.stem == "patch"
    require_supported(
        small_patch == variant.first_downsampling, form, f"patch_size={variant.patch_size} with this first stage"
    )
    pooling = variant.head_pooling
    arguments: dict[str, Any] = {} if pooling == "avg" else {"global_pool": "" if pooling == "none" else pooling}
    name = next((name for name, row in timm.ARCHITECTURES.items() if plain(row) == plain(variant)), None)
    if name:
        return name, arguments
    arguments |= {
        "depths": [*variant.depths],
        "dims": [*variant.dims],
        "kernel_sizes": [*variant.kernel_sizes[:4]],
        "stem_type": stem_type,
        "patch_size": variant.patch_size,
        "head_norm_first": variant.head_norm_first,
        "conv_mlp": variant.norm != "layer",
        "conv_bias": variant.conv_bias,
        "use_grn": variant.use_grn,
        "act_layer": ACTIVATION_TO_TIMM[variant.activation],
        "norm_eps": variant.epsilon,
    }
    arguments |= {"head_hidden_size": variant.head_hidden_size} if variant.head_hidden_size else {}
    arguments |= {"norm_layer": f"{variant.norm}norm2d"} if variant.norm != "layer" else {}
    # A null would say that there is no layer scale, but transformers' wrapper drops nulls: V2 has none by itself.
    return "convnext_tiny" if variant.layer_scale else "convnextv2_tiny", arguments


def timm_transform(transform: ImageTransform) -> dict[str, Any]:
    """Returns the transform in `pretrained_cfg`."""
    height, width, channels = transform.shape
    modes = {mode: name for name, mode in timm.CROP_MODES.items()}
    require_supported(transform.resize_mode in modes, "timm", f"resize={transform.resize_mode!r}")
    statistics = get_statistics(transform.statistics)
    border = tuple(round(255 * value) for value in statistics.mean)
    require_supported(
        transform.resize_mode != "longest" or transform.fill_color in (border, border[0]),
        "timm",
        f"fill={transform.fill_color}",
    )
    if transform.crop_rounding != "half_even" or not transform.quantize:
        warnings.warn("timm's transform rounds otherwise: pixels may be shifted by one.", stacklevel=6)
    return {
        "input_size": [channels, height, width],
        "interpolation": transform.interpolation,
        "crop_pct": get_crop_pct(transform, "timm"),
        "crop_mode": modes[transform.resize_mode],
        "mean": [*statistics.mean],
        "std": [*statistics.std],
    }


def get_crop_pct(transform: ImageTransform, format: str) -> float:
    """Returns the part of the edge that the crop keeps, such that the edge comes out of it exactly."""
    if transform.resize_size is None:
        return transform.crop_pct
    edges = (
        transform.resize_size
        if isinstance(transform.resize_size, tuple)
        else (transform.resize_size, transform.resize_size)
    )
    sides = transform.shape[:2]
    crop = sides[0] / edges[0]
    for candidate in (crop, math.nextafter(crop, 0), round(crop, 6), round(crop, 3)):
        if all(math.floor(side / candidate) == edge for side, edge in zip(sides, edges, strict=True)):
            return candidate
    raise UnsupportedByFormatError(
        f"The format {format!r} cannot say edge={transform.resize_size} with size={transform.size}. Use keras."
    )


def require_transformers_backbone(description: ModelInfo) -> None:
    """Raises unless transformers has the architecture of stem and stages."""
    variant, form = description.variant, "transformers"
    require_supported(description.clip is None, form, "a ConvNeXt-CLIP of this kind")
    default = ConvNeXtConfig(variant.depths, variant.dims)
    must = {
        "stem": "patch",
        "stem_norm": True,
        "norm": "layer",
        "epsilon": 1e-6,
        "conv_bias": True,
        "head_hidden_size": 0,
    }
    must |= {"first_downsampling": False, "head_norm_first": False, "head_pooling": "avg"}
    must |= {"kernel_sizes": default.kernel_sizes, "layer_scale": variant.layer_scale and not variant.use_grn}
    if description.segmentation and not description.segmentation.output_norms:
        must["epsilon"] = variant.epsilon  # DINOv3's has any
    for name, value in must.items():
        found = getattr(variant, name)
        found = found[:1] * 4 if name == "kernel_sizes" and len(set(found)) == 1 else found
        require_supported(found == value, form, f"{name}={found}")
    require_supported(variant.activation in ACTIVATION_TO_TRANSFORMERS, form, f"activation={variant.activation!r}")
    require_supported(
        description.output_stride in (None, variant.minimum_size), form, f"output_stride={description.output_stride}"
    )


def to_transformers_backbone(description: ModelInfo) -> dict[str, Any]:
    """Returns the keys of `config.json` that describe stem and stages."""
    variant = description.variant
    content: dict[str, Any] = {
        "model_type": "convnextv2" if variant.use_grn else "convnext",
        "num_channels": description.transform.channels,
        "patch_size": variant.patch_size,
        "num_stages": len(variant.depths),
        "depths": [*variant.depths],
        "hidden_sizes": [*variant.dims],
        "hidden_act": ACTIVATION_TO_TRANSFORMERS[variant.activation],
        "layer_norm_eps": variant.head_epsilon or variant.epsilon,
        "image_size": description.transform.shape[0],
        "initializer_range": 0.02,
        "drop_path_rate": 0.0,
    }
    if not variant.use_grn:
        content["layer_scale_init_value"] = 1e-6 if variant.layer_scale else 0.0
    return content


def write_transformers_config(description: ModelInfo) -> Files:
    """Builds `config.json` and `preprocessor_config.json` in transformers' format."""
    require_transformers_backbone(description)
    if description.segmentation:
        return write_upernet_config(description, description.segmentation)
    stem = "ConvNextV2" if description.variant.use_grn else "ConvNext"
    kind = f"{stem}ForImageClassification" if description.classes else f"{stem}Model"
    content = {"architectures": [kind], **to_transformers_backbone(description)}
    if description.classes:
        named = class_name_list(description) or [(f"LABEL_{number}",) * 2 for number in range(description.classes)]
        content["id2label"] = {str(number): name for number, (_, name) in enumerate(named)}
        content["label2id"] = {name: number for number, (_, name) in enumerate(named)}
        content["problem_type"] = description.problem_type
    return {"config.json": content, "preprocessor_config.json": to_image_processor(description.transform)}


def write_upernet_config(description: ModelInfo, segmentation: SegmentationConfig) -> Files:
    """Builds the two files of transformers' `UperNetForSemanticSegmentation`."""
    variant, form = description.variant, "transformers"
    require_supported(segmentation.decoder == "upernet", form, f"decoder={segmentation.decoder!r}")
    backbone = to_transformers_backbone(description)
    if not segmentation.output_norms:  # only the backbone of DINOv3 has none
        is_dinov3 = variant.layer_scale and not variant.use_grn and variant.patch_size == 4
        require_supported(is_dinov3, form, "stage outputs without norms, except for DINOv3's architecture")
        backbone["model_type"] = "dinov3_convnext"
        for key in ("num_stages", "patch_size"):  # which its configuration does not have
            del backbone[key]
    backbone |= {"out_features": upernet.STAGE_NAMES, "out_indices": [1, 2, 3, 4]}
    named = class_name_list(description) or [(f"LABEL_{number}",) * 2 for number in range(description.classes)]
    content = {
        "architectures": ["UperNetForSemanticSegmentation"],
        "model_type": upernet.MODEL_TYPE,
        "backbone_config": backbone,
        "hidden_size": segmentation.hidden_size,
        "pool_scales": [*segmentation.pool_scales],
        "use_auxiliary_head": segmentation.auxiliary_head,
        "auxiliary_loss_weight": AUXILIARY_LOSS_WEIGHT,
        "auxiliary_channels": segmentation.auxiliary_channels,
        "auxiliary_num_convs": segmentation.auxiliary_num_convs,
        "auxiliary_concat_input": segmentation.auxiliary_concat_input,
        "loss_ignore_index": IGNORE_INDEX,
        "initializer_range": 0.02,
        "id2label": {str(number): name for number, (_, name) in enumerate(named)},
        "label2id": {name: number for number, (_, name) in enumerate(named)},
    }
    processor = to_image_processor(description.transform)
    require_supported(processor["image_processor_type"] == "ViTImageProcessor", form, "a transform other than a squash")
    processor |= {
        "image_processor_type": "SegformerImageProcessor",
        "do_reduce_labels": description.reduce_labels,
    }
    return {"config.json": content, "preprocessor_config.json": processor}


def to_image_processor(transform: ImageTransform) -> dict[str, Any]:
    """Returns the transform in `preprocessor_config.json`, all switches written out."""
    height, width, channels = transform.shape
    statistics = get_statistics(transform.statistics)
    resample = image_processors.RESAMPLE.index(transform.interpolation)
    shared = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False}
    shared |= {"do_convert_rgb": channels == 3, "rescale_factor": 1 / 255, "resample": resample}
    shared |= {"image_mean": [*statistics.mean], "image_std": [*statistics.std]}
    edge = transform.resize_size or tuple(math.floor(side / transform.crop_pct) for side in (height, width))
    rows, columns = edge if isinstance(edge, tuple) else (edge, edge)
    if transform.resize_mode == "squash" and (rows, columns) == (height, width):
        kind = "ViTImageProcessor" if transform.quantize else "DINOv3ViTImageProcessor"
        return {"image_processor_type": kind, **shared, "size": {"height": height, "width": width}}
    is_plain = transform.resize_mode == "shortest" and rows == columns and transform.quantize
    require_supported(
        is_plain, "transformers", f"resize={transform.resize_mode!r} to {transform.size} by way of {edge}"
    )
    if transform.crop_rounding != "down":
        warnings.warn("transformers rounds the crop's offset down: pixels may be shifted by one.", stacklevel=6)
    crop = height / rows
    crop = next((part for part in (crop, math.nextafter(crop, 0)) if int(height / part) == rows), None)
    if height == width < image_processors.CONVNEXT.crop_below and crop:
        size = {"size": {"shortest_edge": height}, "crop_pct": crop}
        return {"image_processor_type": "ConvNextImageProcessor", **shared, **size}
    size = {"size": {"shortest_edge": rows}, "crop_size": {"height": height, "width": width}, "do_center_crop": True}
    return {"image_processor_type": "BitImageProcessor", **shared, **size}


def write_open_clip_config(description: ModelInfo) -> Files:
    """Builds `open_clip_config.json`."""
    variant, transform, form = description.clip, description.transform, "open_clip"
    if variant is None:
        raise UnsupportedByFormatError("The format 'open_clip' is of ConvNeXt-CLIPs. Use timm, transformers or keras.")
    name, arguments = timm_arguments(variant.vision, form)
    pool = arguments.pop("global_pool", "")
    require_supported(not arguments and pool in ("", "max", "avgmax"), form, "a trunk without a name in timm")
    require_supported(
        variant.projection_hidden_size in (None, 2 * variant.embed_dim), form, "a hidden layer of that width"
    )
    require_supported(
        variant.text.activation in ("gelu", "quick_gelu"), form, f"activation={variant.text.activation!r} of texts"
    )
    usual = (
        transform.crop_pct == 1
        and transform.resize_size is None
        and transform.crop_rounding == "half_even"
        and transform.channels == 3
    )
    require_supported(usual and transform.resize_mode != "none", form, f"the transform {transform}")
    require_supported(
        transform.interpolation in ("bicubic", "bilinear"), form, f"interpolation={transform.interpolation!r}"
    )
    text, statistics = variant.text, get_statistics(transform.statistics)
    vision = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": "mlp" if variant.projection_hidden_size else "linear",
        "timm_proj_bias": variant.projection_bias,
        "image_size": [*transform.size] if isinstance(transform.size, tuple) else transform.size,
    }
    model: dict[str, Any] = {
        "embed_dim": variant.embed_dim,
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "mlp_ratio": text.mlp_ratio,
        },
    }
    model |= {"quick_gelu": True} if text.activation == "quick_gelu" else {}
    model |= {"init_logit_bias": 0.0} if variant.logit_bias else {}
    pixels = {"mean": [*statistics.mean], "std": [*statistics.std], "interpolation": transform.interpolation}
    pixels |= {"resize_mode": transform.resize_mode, "size": vision["image_size"], "mode": "RGB"}
    pixels |= {"fill_color": transform.fill_color} if transform.resize_mode == "longest" else {}
    return {"open_clip_config.json": {"model_cfg": model, "preprocess_cfg": pixels}}


def write_native_config(description: ModelInfo) -> Files:
    """Builds `convnext_keras.json`."""
    return {native.NATIVE_FILE: native.to_json(description)}


Tensors = Mapping[Key, LazyTensor]

# timm numbers the parts of a stem: its norm and its second convolution stand behind an activation, if there is one.
STEM_NORM = {"patch": "stem.1", "overlap": "stem.2", "overlap_gelu": "stem.3"}


def to_torch_tensors(layout: str, prefix: str, description: ModelInfo, tensors: Tensors) -> dict[str, LazyTensor]:
    """Returns tensors by a publisher's names, in PyTorch's order of axes."""
    by_timm, variant, named = not layout.startswith("transformers"), description.variant, {}
    conv_mlp = by_timm and has_conv_mlp(variant)
    for key, tensor in tensors.items():
        names = candidate_keys(LAYOUTS[layout], key)
        name = names[by_timm and uses_alternative_key(key.layer.role, description)]
        if by_timm and key.layer.role == "stem_layernorm":
            name = f"{STEM_NORM[variant.stem]}.{name.rpartition('.')[2]}"
        as_conv1x1 = (conv_mlp and key.layer.role.startswith("pointwise")) or _is_unpooled(layout, key, variant)
        name = name[1:] if name.startswith("/") else prefix + name
        named[name] = to_torch_layout(key, tensor, as_conv1x1, expand_grn=not by_timm)
    return named


def uses_alternative_key(role: str, description: ModelInfo) -> bool:
    """Returns whether timm or OpenCLIP calls a layer by the second of its names in the table."""
    variant, clip = description.variant, description.clip
    seconds = {
        "stem_conv_2": variant.stem == "overlap_gelu",
        "head_layernorm": variant.head_norm_first,
        "projection": clip is not None and clip.projection_hidden_size is not None,
    }
    return seconds.get(role, False)


def has_conv_mlp(variant: ConvNeXtConfig) -> bool:
    """Returns whether timm's model of a variant, as `timm_arguments` asks for it, has convolutions for dense layers."""
    name, _ = timm_arguments(variant)
    return name in timm.CONV_MLP or variant.norm != "layer"  # which timm wants beside its other norms


def _is_unpooled(layout: str, key: Key, variant: ConvNeXtConfig) -> bool:
    """Returns whether timm's classifier is a convolution, since it is applied to every position."""
    dense = key.layer.role in ("head_dense", "head_hidden") and key.variable == "kernel"
    return layout == "timm" and dense and (variant.head_pooling == "none")


def to_torch_layout(key: Key, tensor: LazyTensor, as_conv1x1: bool, expand_grn: bool) -> LazyTensor:
    """Returns a tensor with output channels first, if it is a kernel."""
    shape, values = tensor.shape, tensor.values
    if key.variable != "kernel":
        shape = (1, 1, 1, *shape) if expand_grn and key.layer.role == "grn" else shape
        return LazyTensor(shape, tensor.dtype, lambda: values().reshape(shape))
    if len(shape) == 4:
        return LazyTensor((shape[3], shape[2], *shape[:2]), tensor.dtype, lambda: values().transpose(3, 2, 0, 1))
    turned = (*shape[::-1], 1, 1) if as_conv1x1 else shape[::-1]
    return LazyTensor(turned, tensor.dtype, lambda: np.reshape(values().T, turned))


def timm_tensors(description: ModelInfo, tensors: Tensors) -> dict[str, LazyTensor]:
    """Returns the tensors under timm's names."""
    return to_torch_tensors("timm", "", description, tensors)


def transformers_tensors(description: ModelInfo, tensors: Tensors) -> dict[str, LazyTensor]:
    """Transformers' names."""
    if description.segmentation:
        return upernet_tensors(description, description.segmentation, tensors)
    prefix = "convnextv2." if description.variant.use_grn else "convnext."
    return to_torch_tensors("transformers", prefix if description.classes else "", description, tensors)


def upernet_tensors(
    description: ModelInfo, segmentation: SegmentationConfig, tensors: Tensors
) -> dict[str, LazyTensor]:
    """Returns the tensors of a segmentation model under transformers' names."""
    if segmentation.output_norms:
        named = to_torch_tensors("transformers UPerNet", "backbone.", description, tensors)
    else:
        named = to_torch_tensors("transformers DINOv3 UPerNet", "backbone.model.", description, tensors)
    norms = [name.removesuffix(".running_mean") for name in named if name.endswith(".running_mean")]
    counter = LazyTensor((), "int64", lambda: np.zeros((), "int64"))
    return named | {f"{name}.num_batches_tracked": counter for name in norms}


def open_clip_tensors(description: ModelInfo, tensors: Tensors) -> dict[str, LazyTensor]:
    """Returns the tensors under OpenCLIP's names."""
    return to_torch_tensors("OpenCLIP", "visual.trunk.", description, tensors)


def native_tensors(description: ModelInfo, tensors: Tensors) -> dict[str, LazyTensor]:
    """Returns the library's names."""
    return {str(key): tensor for key, tensor in tensors.items()}
