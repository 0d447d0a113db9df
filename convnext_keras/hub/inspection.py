"""A built model read back: its architecture, classes and statistics, and each variable under the name of its role.

What comes out builds the same function again: a layer that no description can name is an error, never left out.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from convnext_keras.checkpoints.key_mapping import Key
from convnext_keras.checkpoints.loading import named_layers
from convnext_keras.checkpoints.saving import LazyTensor, to_lazy_tensor
from convnext_keras.configs import (
    AUXILIARY_STAGE,
    CLIPConfig,
    CLIPTextConfig,
    ConvNeXtConfig,
    SegmentationConfig,
    count_clip_params,
    count_params,
    count_segmentation_params,
)
from convnext_keras.data.transforms import NormalizationStats
from convnext_keras.hub.image_processors import named_statistics
from convnext_keras.layer_names import BLOCK_ROLES, DECODER_ROLES, LayerName
from convnext_keras.layers import ACTIVATIONS, NORMS, AverageMaxPooling2D, is_noop
from convnext_keras.problem_types import CLASSIFIER_ACTIVATIONS

NamedLayers = list[tuple[LayerName, keras.Layer]]
DENSE_ROLES = {"head_hidden", "projection_hidden"}  # layers before the last one
ACTIVATION_LAYERS = layers.Activation | layers.Softmax


class InspectedModel(NamedTuple):
    """Architecture and tensors of a model, read from its layers.

    Attributes:
        variant: The architecture; of a ConvNeXt-CLIP, that of its image tower.
        classes: Width of the classifier, 0 if there is none.
        activation: Activation of the classifier: None, softmax or sigmoid.
        statistics: Those that the model embeds, None if pixels are normalized outside.
        channels: Channels of the images.
        size: Height and width of the images in pixels, None for any.
        output_stride: Pixels of the input for one of the last feature map.
        tensors: Each variable by its role.
        clip: Clip of a ConvNeXt-CLIP: both towers.
        segmentation: Backbone and decoder of a segmentation model.
    """

    variant: ConvNeXtConfig
    classes: int
    activation: str | None
    statistics: str | NormalizationStats | None
    channels: int
    size: tuple[int, int] | None
    output_stride: int
    tensors: dict[Key, LazyTensor]
    clip: CLIPConfig | None = None
    segmentation: SegmentationConfig | None = None


class HeadSpec(NamedTuple):
    """Layers after the last block; None for absent ones."""

    pooling: str | None = None
    norm: Any = None
    hidden: Any = None
    classifier: Any = None
    activation: str | None = None
    norm_first: bool = False


def inspect_model(model: keras.Model) -> InspectedModel:
    """Reads a model of this library, or one built on it, such as `Sequential([backbone, Dense(3)])`.

    Raises:
        ValueError: If a layer cannot be represented in a config.
    """
    towers = {layer.name: layer for layer in model.layers if isinstance(layer, keras.Model)}
    if {"image_encoder", "text_encoder"} <= towers.keys():
        return _read_clip(model, named_layers(towers["image_encoder"]), named_layers(towers["text_encoder"]))
    named = named_layers(model)
    if any(name.role == "decoder_classifier" for name, _ in named):
        return _read_segmentation_model(model, named)
    return _read_classifier(model, named)


def _read_classifier(model: keras.Model, named: NamedLayers) -> InspectedModel:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(f"{model.name!r} must have one input and one output to be described.")
    preprocessing, backbone, after_backbone = _split_layers(model, named)
    head = _read_head(model, after_backbone)
    variant = _read_trunk(model, backbone, head)
    classes = head.classifier.units if head.classifier else 0
    statistics, channels = _read_inputs(model, preprocessing)
    roles = {"head_layernorm": head.norm, "head_hidden": head.hidden, "head_dense": head.classifier}
    tensors = _tensors(backbone) | _tensors([(LayerName(role), layer) for role, layer in roles.items() if layer])
    if head.classifier and not head.classifier.use_bias:  # Published classifiers have one.
        zeros = np.zeros(classes, "float32")
        tensors[Key(LayerName("head_dense"), "bias")] = LazyTensor((classes,), "float32", lambda: zeros)
    _check_count(model, tensors, count_params(variant, classes, channels))
    stride = _output_stride(variant, backbone)
    return InspectedModel(variant, classes, head.activation, statistics, channels, _size(model), stride, tensors)


def _read_segmentation_model(model: keras.Model, named: NamedLayers) -> InspectedModel:
    decoder = [row for row in named if row[0].role in DECODER_ROLES]
    preprocessing, backbone, after = _split_layers(model, [row for row in named if row[0].role not in DECODER_ROLES])
    foreign = [layer.name for _, layer in after if not _is_ignored(layer)]
    if foreign or len(model.inputs) != 1:
        raise ValueError(f"{model.name!r} has layers that cannot be represented in this format, such as {foreign[:1]}.")
    by_role: dict[str, list[Any]] = {}
    for name, layer in decoder:
        by_role.setdefault(name.role, []).append(layer)
    # The norm after the last stage is not part of the model; its place takes one of the others.
    norm = next(layer for name, layer in backbone if name.role == "layernorm")
    variant = _read_trunk(model, backbone, HeadSpec("avg", norm))
    kind: Any = "upernet" if "pyramid_pool" in by_role else "unet" if "unet_conv" in by_role else "fpn"
    auxiliary = "auxiliary_classifier" in by_role
    blocks = by_role.get("auxiliary_conv", []) + by_role.get("auxiliary_concat_conv", [])
    segmentation = SegmentationConfig(
        variant,
        kind,
        by_role["unet_conv" if kind == "unet" else "fpn_conv"][0].filters,
        tuple(layer.cells for layer in by_role.get("pyramid_pool", [])) or (1, 2, 3, 6),
        "output_norm" in by_role,
        auxiliary,
        blocks[0].filters if blocks else variant.dims[AUXILIARY_STAGE],
        len(by_role.get("auxiliary_conv", [])),
        "auxiliary_concat_conv" in by_role,
    )
    classes = by_role["decoder_classifier"][0].filters
    statistics, channels = _read_inputs(model, preprocessing)
    tensors = _tensors([*backbone, *decoder])
    _check_count(model, tensors, count_segmentation_params(segmentation, classes, channels, auxiliary))
    stride, activation = _output_stride(variant, backbone), "softmax" if "decoder_activation" in by_role else None
    size = _size(model)
    return InspectedModel(
        variant, classes, activation, statistics, channels, size, stride, tensors, segmentation=segmentation
    )


def _read_clip(model: keras.Model, images: NamedLayers, texts: NamedLayers) -> InspectedModel:
    preprocessing, backbone, after_backbone = _split_layers(model, images)
    own = {name.role: layer for name, layer in after_backbone}
    head = _read_head(model, [row for row in after_backbone if not row[0].role.startswith("projection")])
    text: dict[str, Any] = {name.role: layer for name, layer in texts if name.block == 0}
    depth = 1 + max(name.block for name, _ in texts)
    similarity: Any = model.get_layer("similarity")
    projection, hidden = own["projection"], own.get("projection_hidden")
    mlp, text_width = text["mlp_in"], text["text_token_embedding"].output_dim
    tower = CLIPTextConfig(
        text_width,
        text["attention"].heads,
        depth,
        text["text_position_embedding"].context_length,
        text["text_token_embedding"].input_dim,
        _activation_name(mlp.activation),
        mlp.units / text_width,
    )
    size = _size(model.get_layer("image_encoder"))
    height, width = size or (224, 224)
    variant = CLIPConfig(
        _read_trunk(model, backbone, head),
        tower,
        projection.units,
        height if height == width else (height, width),
        projection_hidden_size=hidden and hidden.units,
        projection_bias=projection.use_bias,
        logit_bias=similarity.use_bias,
    )
    norm: NamedLayers = [(LayerName("head_layernorm"), head.norm)]
    others: NamedLayers = [row for row in after_backbone if row[0].role.startswith("projection")]
    tensors = _tensors([*backbone, *norm, *others, *texts, (LayerName("similarity"), similarity)])
    _check_count(model, tensors, count_clip_params(variant))
    statistics, channels = _read_inputs(model.get_layer("image_encoder"), preprocessing)
    stride = variant.vision.minimum_size
    return InspectedModel(variant.vision, 0, None, statistics, channels, size, stride, tensors, variant)


def _split_layers(model: keras.Model, named: NamedLayers) -> tuple[NamedLayers, NamedLayers, NamedLayers]:
    """Returns layers before the stem, of stem and stages, and behind them."""
    known = [index for index, (name, _) in enumerate(named) if not name.is_custom]
    blocks = [index for index in known if named[index][0].role in BLOCK_ROLES]
    stems = [index for index in known if named[index][0].role.startswith("stem")]
    if not blocks or not stems:
        raise ValueError(f"{model.name!r} has no ConvNeXt in it. Give a model of this library, or one built on it.")
    backbone = named[stems[0] : blocks[-1] + 1]
    foreign = [layer for name, layer in backbone if name.is_custom and not _is_ignored(layer)]
    changed = ("quantization_mode", "lora_enabled")
    foreign += [layer for _, layer in backbone if any(getattr(layer, name, None) for name in changed)]
    if foreign:
        raise ValueError(
            f"Layer {foreign[0].name!r} cannot be represented in this format. Remove it, or use model.save."
        )
    return named[: stems[0]], [row for row in backbone if not row[0].is_custom], named[blocks[-1] + 1 :]


def _is_ignored(layer: keras.Layer) -> bool:
    """Returns whether no config has to describe a layer, because it does not change values at inference."""
    kinds = layers.InputLayer | layers.Permute | layers.Identity | layers.Flatten
    return is_noop(layer) or isinstance(layer, kinds) or type(layer).__name__.startswith("Random")


def _read_inputs(model: keras.Model, preprocessing: NamedLayers) -> tuple[str | NormalizationStats | None, int]:
    """Returns the statistics that are embedded, and the number of channels."""
    shape = model.input_shape
    channels = shape[-1] if keras.config.image_data_format() == "channels_last" else shape[1]
    steps = [layer for _, layer in preprocessing if not _is_ignored(layer)]
    if not steps:
        return None, channels
    if len(steps) > 1 or not isinstance(steps[0], layers.Normalization):
        raise ValueError(f"Layer {steps[0].name!r} before the stem cannot be represented in this format.")
    rows = [np.ravel(np.asarray(row, "float64")) for row in (steps[0].input_mean, steps[0].input_variance)]
    mean, variance = (np.broadcast_to(row, channels) for row in rows)
    rounded = [[float(f"{value:.9g}") for value in row] for row in (mean / 255, np.sqrt(variance) / 255)]
    return named_statistics(NormalizationStats(tuple(rounded[0]), tuple(rounded[1]))), channels


def _read_head(model: keras.Model, after_backbone: NamedLayers) -> HeadSpec:
    """Reads the layers after the last block, in any of the orders that a format supports."""
    head = HeadSpec()
    rows = [(name.role, layer) for name, layer in after_backbone if not _is_ignored(layer)]
    for index, (role, layer) in enumerate(rows):
        is_last, kind = index == len(rows) - 1, _pooling_name(layer)
        if kind and not head.pooling and not head.hidden:
            head = head._replace(pooling=kind, norm_first=head.norm is not None)
        elif type(layer) in (*NORMS.values(), layers.LayerNormalization) and head.norm is None and not head.hidden:
            head = head._replace(norm=layer)
        elif isinstance(layer, layers.Dense) and head.norm is not None and not head.classifier:
            is_hidden = role in DENSE_ROLES or (not is_last and layer.activation is keras.activations.gelu)
            if is_hidden and not head.hidden:
                head = head._replace(hidden=layer)
            else:
                head = head._replace(classifier=layer, activation=_classifier_activation(layer))
        elif is_last and head.classifier and not head.activation and isinstance(layer, ACTIVATION_LAYERS):
            head = head._replace(activation=_classifier_activation(layer))
        else:
            raise ValueError(
                f"Layer {layer.name!r} of {model.name!r}, after the blocks, cannot be represented in this format."
            )
    if head.norm is None:
        raise ValueError(f"{model.name!r} has no norm behind its blocks, which every published ConvNeXt has.")
    return head


def _pooling_name(layer: keras.Layer) -> str | None:
    if isinstance(layer, AverageMaxPooling2D):
        return "catavgmax" if layer.concatenate else "avgmax"
    kinds = {layers.GlobalAveragePooling2D: "avg", layers.GlobalMaxPooling2D: "max"}
    return next((word for kind, word in kinds.items() if isinstance(layer, kind)), None)


def _classifier_activation(layer: Any) -> str | None:
    if isinstance(layer, layers.Softmax):
        return "softmax"
    word = layer.activation.__name__
    if word not in (*CLASSIFIER_ACTIVATIONS, "linear"):
        raise ValueError(
            f"The classifier {layer.name!r} has the activation {word!r}. Descriptions know None and "
            f"{' and '.join(CLASSIFIER_ACTIVATIONS)}; outputs are logits in all formats."
        )
    return None if word == "linear" else word


def _activation_name(function: Any) -> Any:
    """Returns the word of `ConvNeXtConfig` for an activation."""
    known = {keras.activations.get(activation): word for word, activation in ACTIVATIONS.items()}
    if function not in known:
        raise ValueError(
            f"The activation {function} cannot be represented in this format. Known: {', '.join(known.values())}."
        )
    return known[function]


def _read_trunk(model: keras.Model, backbone: NamedLayers, head: HeadSpec) -> ConvNeXtConfig:
    """Returns the architecture of stem and stages, with what the head says."""
    by_role: dict[str, list[tuple[LayerName, Any]]] = {}
    for name, layer in backbone:
        by_role.setdefault(name.role, []).append((name, layer))
    if any(role not in by_role for role in ("depthwise_conv", "layernorm", "pointwise_conv_1", "pointwise_conv_2")):
        raise ValueError(f"{model.name!r} lacks layers of its blocks. Give a model that is not folded.")

    def first(role: str) -> Any:
        return by_role[role][0][1] if role in by_role else None

    stages = range(1 + max(name.stage for name, _ in by_role["depthwise_conv"]))
    convolutions = [[layer for name, layer in by_role["depthwise_conv"] if name.stage == stage] for stage in stages]
    norm, stem = first("layernorm"), first("stem_conv")
    if not norm.get_config().get("scale", True):
        raise ValueError(f"{model.name!r} is folded for inference. Give the model that it was made of.")
    epsilon = float(norm.epsilon)
    overlap: dict[str, Any] = {} if stem else {"stem": "overlap_gelu" if "stem_gelu" in by_role else "overlap"}
    if overlap:
        overlap["stem_width"] = first("stem_conv_1").filters
    kernel_sizes = tuple(rows[0].kernel_size[0] for rows in convolutions)
    norm_word: Any = next(word for word, kind in NORMS.items() if type(norm) is kind)
    # Keras' own class of the user's computes the same.
    if not isinstance(head.norm, layers.LayerNormalization if norm_word == "layer" else NORMS[norm_word]):
        raise ValueError(f"{head.norm.name!r} is of another kind than the norms of the blocks, {norm_word!r}.")
    pooling: Any = head.pooling or "none"
    return ConvNeXtConfig(
        tuple(len(rows) for rows in convolutions),
        tuple(rows[0].filters for rows in convolutions),
        **overlap,
        stem_norm="stem_layernorm" in by_role,
        patch_size=stem.kernel_size[0] if stem else 4,
        kernel_sizes=kernel_sizes + kernel_sizes[-1:] * (4 - len(kernel_sizes)),
        norm=norm_word,
        epsilon=epsilon,
        head_epsilon=None if head.norm.epsilon == epsilon else float(head.norm.epsilon),
        activation=_activation_name(first("pointwise_conv_1").activation),
        conv_bias=convolutions[0][0].use_bias,
        first_downsampling="first_downsampling_conv" in by_role,
        use_grn="grn" in by_role,
        layer_scale="layer_scale" in by_role,
        head_norm_first=head.norm_first,
        head_hidden_size=head.hidden.units if head.hidden else 0,
        head_pooling=pooling,
    )


def _output_stride(variant: ConvNeXtConfig, backbone: NamedLayers) -> int:
    """Returns the stride of the last feature map, by how far the last kernels are spread."""
    spread = next(layer for name, layer in reversed(backbone) if name.role == "depthwise_conv").dilation_rate[0]
    return variant.minimum_size // spread


def _size(model: keras.Model) -> tuple[int, int] | None:
    shape = model.input_shape
    height, width = shape[1:3] if keras.config.image_data_format() == "channels_last" else shape[2:]
    return None if None in (height, width) else (height, width)


def _tensors(rows: NamedLayers) -> dict[Key, LazyTensor]:
    return {
        Key(name, variable.name): to_lazy_tensor(variable)
        for name, layer in rows
        for variable in layer.weights
        if variable.name != "seed_generator_state"
    }


def _check_count(model: keras.Model, tensors: dict[Key, LazyTensor], expected: int) -> None:
    """Raises unless the variables are those of the architecture that was read."""
    count = sum(int(np.prod(tensor.shape)) for tensor in tensors.values())
    if count != expected:
        raise ValueError(f"{model.name!r} has {count} weights where its architecture has {expected}.")
