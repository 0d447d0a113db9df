"""Models out of models: the outputs of stages, the layers inside, low-rank updates merged, and averages."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from convnext_keras.layer_names import LayerName, parse_layer_name
from convnext_keras.layers import LayerNormalization, register
from convnext_keras.model import ConvNeXtModel, get_pretrained_info, output_layer
from convnext_keras.surgery import clone_graph, to_functional

OUTPUT_NORM_EPSILON = 1e-6  # of the norms of stage outputs, in Meta's and transformers' models


def feature_extractor(model: keras.Model, stages: Sequence[int] = (0, 1, 2, 3), norms: bool = False) -> ConvNeXtModel:
    """Returns a model that gives the outputs of stages, which shares the layers and weights of `model`.

    Args:
        model: A model of this library, or one built on it, such as `Sequential([backbone, head])`.
        stages: Stages which ones, 0 to 3, in the order wanted.
        norms: Whether each output is normalized by a new layer, as in models for dense prediction.

    Returns:
        A model with a list of outputs `(N, H / s, W / s, dims[stage])`, where `s` is 4, 8, 16, 32 (at most the model's
        `output_stride`); channels last, as the stages compute.

    Raises:
        ValueError: If the model has no such stage.

    Example:
        >>> from convnext_keras import ConvNeXtTiny
        >>> model = ConvNeXtTiny(weights=None, include_top=False, input_shape=(64, 64, 3))
        >>> [shape[1:] for shape in feature_extractor(model, stages=(0, 3)).output_shape]
        [(16, 16, 96), (2, 2, 768)]
    """
    inputs, outputs = stage_outputs(to_functional(model))
    missing = [stage for stage in stages if stage not in outputs]
    if missing or not stages:
        raise ValueError(f"stages must be some of {sorted(outputs)} for {model.name!r}. Received: {tuple(stages)}")
    outputs = normalized_outputs(outputs, stages) if norms else outputs
    extractor = FeatureExtractor(inputs, [outputs[stage] for stage in stages], name=f"{model.name}_features")
    extractor.pretrained_info = model.pretrained_info if isinstance(model, ConvNeXtModel) else None
    return extractor


class FeatureInfo(NamedTuple):
    """One stage, as timm's `feature_info` describes it.

    Attributes:
        num_chs: Channels of its output.
        reduction: Pixels of the input per pixel of the output, along each axis.
        module: Name of the layer that gives the output.
    """

    num_chs: int
    reduction: int
    module: str


def feature_info(model: keras.Model) -> list[FeatureInfo]:
    """Returns channels, strides and layers of the stages, like `model.feature_info` of timm.

    Args:
        model: See `feature_extractor`.

    Raises:
        ValueError: If the model has no stages.

    Example:
        >>> from convnext_keras import ConvNeXtTiny, feature_info
        >>> [(row.num_chs, row.reduction) for row in feature_info(ConvNeXtTiny(weights=None))]
        [(96, 4), (192, 8), (384, 16), (768, 32)]
    """
    model = to_functional(model)
    _, outputs = stage_outputs(model)
    if not outputs:
        raise ValueError(f"{model.name!r} has no stages of a ConvNeXt.")
    height, width, channels = (side or 512 for side in model.inputs[0].shape[1:])
    extractor = feature_extractor(model, tuple(outputs))
    shapes = extractor.compute_output_spec(keras.KerasTensor((1, height, width, channels)))
    strides = [1 << (height // row.shape[1]).bit_length() - 1 for row in shapes]  # powers of two, rounded down
    layers: list[Any] = [tensor._keras_history.operation for tensor in outputs.values()]
    rows = zip(shapes, strides, layers, strict=True)
    return [FeatureInfo(shape.shape[-1], stride, layer.name) for shape, stride, layer in rows]


def pyramid_outputs(model: keras.Model) -> dict[str, Any]:
    """Returns the symbolic outputs of the stages as `P2` to `P5`, like `backbone.pyramid_outputs` of keras-hub.

    The number is the power of two of the stride; of stages with the same stride, the last one is taken.

    Args:
        model: See `feature_extractor`.

    Example:
        >>> import keras
        >>> from convnext_keras import ConvNeXtTiny, pyramid_outputs
        >>> backbone = ConvNeXtTiny(weights=None, include_top=False)
        >>> outputs = pyramid_outputs(backbone)
        >>> keras.Model(backbone.input, [outputs["P3"], outputs["P5"]]).output_shape[1][-1]
        768
    """
    model = to_functional(model)
    strides = [row.reduction for row in feature_info(model)]
    return {
        f"P{stride.bit_length() - 1}": tensor
        for stride, tensor in zip(strides, stage_outputs(model)[1].values(), strict=True)
    }


def reset_classifier(model: keras.Model, num_classes: int, activation: str | None = "softmax") -> ConvNeXtModel:
    """Returns a model with a new classifier on the layers of `model`, like `model.reset_classifier` of timm.

    Args:
        model: A classifier of this library, or one built on it, whose last layer is dense.
        num_classes: Outputs of the new classifier; 0 for the features in front of it, `(N, D)`.
        activation: Activation of the new classifier, `"softmax"`, `"sigmoid"` or None.

    Returns:
        A new model, which shares all layers but the last; `model` stays as it is.

    Raises:
        ValueError: If the last layer is not dense, or `num_classes` is negative.

    Example:
        >>> from convnext_keras import create_model, reset_classifier
        >>> reset_classifier(create_model("convnext_mini.digits"), num_classes=3).output_shape
        (None, 3)
    """
    model = to_functional(model)
    head: Any = output_layer(model)
    if not isinstance(head, keras.layers.Dense) or num_classes < 0:
        raise ValueError(
            "reset_classifier takes a model whose last layer is dense, and 0 or more classes. Received: "
            f"{type(head).__name__} {head.name!r}, num_classes={num_classes}"
        )
    if head is not model.layers[-1]:
        raise ValueError(f"The classifier {head.name!r} is inside of {model.layers[-1].name!r}. Pass that model.")
    outputs = head.input
    if num_classes:
        new = keras.layers.Dense(num_classes, activation=activation, name=head.name, dtype=head.dtype_policy)
        outputs = new(outputs)
    result = ConvNeXtModel(model.inputs[0], outputs, name=model.name)
    known = get_pretrained_info(model)
    result.pretrained_info = known and known.without_classes()
    return result


def normalized_outputs(outputs: dict[int, Any], stages: Sequence[int]) -> dict[int, Any]:
    """Returns the outputs of some stages, each behind a layer norm whose name begins like those of the backbone."""
    last: Any = outputs[max(outputs)]._keras_history.operation
    reading = parse_layer_name(last.name)
    prefix, dtype = reading[0] if reading else "", last.dtype_policy
    options: dict[str, Any] = {"epsilon": OUTPUT_NORM_EPSILON, "dtype": dtype}
    return {
        stage: LayerNormalization(name=f"{prefix}{LayerName('output_norm', stage)}", **options)(outputs[stage])
        for stage in stages
    }


@register
class FeatureExtractor(ConvNeXtModel):
    """Model whose outputs are always a list, also for a single output.

    Example:
        >>> from convnext_keras import create_model, feature_extractor
        >>> extractor = feature_extractor(create_model("convnext_mini.digits"), stages=(3,))
        >>> [features.shape for features in extractor.predict(np.zeros((2, 32, 32, 3)), verbose=0)]
        [(2, 2, 2, 128)]
    """

    def call(self, *arguments: Any, **options: Any) -> list[Any]:
        """Returns outputs of the stages."""
        return _as_list(super().call(*arguments, **options))

    def compute_output_spec(self, *arguments: Any, **options: Any) -> list[Any]:
        """Returns shapes and types of what `call` gives."""
        return _as_list(super().compute_output_spec(*arguments, **options))

    def predict_step(self, *arguments: Any) -> list[Any]:
        """Returns outputs of a batch."""
        return _as_list(super().predict_step(*arguments))


def _as_list(outputs: Any) -> list[Any]:
    return [*outputs] if isinstance(outputs, list | tuple) else [outputs]


def split_at_stage(model: keras.Model, stage: int) -> tuple[keras.Model, keras.Model]:
    """Splits a model after a stage into two models, which share its layers.

    Args:
        model: See `feature_extractor`.
        stage: 0 to 3.

    Raises:
        ValueError: If the model has no such stage.

    Example:
        >>> from convnext_keras import create_model
        >>> before, after = split_at_stage(create_model("convnext_mini.digits"), stage=3)
        >>> before.output_shape == after.input_shape
        True
    """
    model = to_functional(model)
    nested = _nested_with_stages(model)
    if nested is None:
        _, outputs = stage_outputs(model)
        if stage not in outputs:
            raise ValueError(f"stage must be one of {sorted(outputs)} for {model.name!r}. Received: stage={stage}")
        return keras.Model(model.input, outputs[stage]), keras.Model(outputs[stage], model.output)
    first, second = split_at_stage(nested, stage)
    between: list[Any] = []

    def called(layer: keras.Layer, *arguments: Any, **options: Any) -> Any:
        if layer is not nested:
            return layer(*arguments, **options)
        between.append(first(*arguments))
        return second(between[0])

    whole = clone_graph(model, lambda layer: layer, called)
    return keras.Model(whole.input, between[0]), keras.Model(between[0], whole.output)


def _nested_with_stages(model: keras.Model) -> keras.Model | None:
    """Returns the layer that is a model with stages; None if the model has them itself, or there is none."""
    if any(
        reading and reading[1].role == "add" for reading in (parse_layer_name(layer.name) for layer in model.layers)
    ):
        return None
    inside = (layer for layer in model.layers if isinstance(layer, keras.Model))
    return next((layer for layer in inside if stage_outputs(to_functional(layer))[1]), None)


def stage_outputs(model: keras.Model) -> tuple[Any, dict[int, Any]]:
    """Returns the input of a model, and the output of each stage in it or in a model that is one of its layers."""
    last_blocks = {}
    for layer in model.layers:
        reading = parse_layer_name(layer.name)
        if reading and reading[1].role == "add":
            last_blocks[reading[1].stage] = layer  # Blocks come in order: the last one stays.
    if last_blocks:
        return model.input, {stage: layer.output for stage, layer in last_blocks.items()}
    for nested in (layer for layer in model.layers if isinstance(layer, keras.Model)):
        inputs, inner = stage_outputs(to_functional(nested))
        if inner:
            return _nested_stage_outputs(model, nested, inputs, inner)
    return model.input, {}


def _nested_stage_outputs(
    model: keras.Model, nested: keras.Model, inputs: Any, inner: dict[int, Any]
) -> tuple[Any, dict[int, Any]]:
    """Returns the result of `stage_outputs` for a model with a backbone as one of its layers."""
    extractor = keras.Model(inputs, [*inner.values()])
    outputs: dict[int, Any] = {}

    def called(layer: keras.Layer, *arguments: Any, **options: Any) -> Any:
        if layer is nested:
            results = extractor(*arguments)
            outputs.update(zip(inner, results if len(inner) > 1 else [results], strict=True))
        return layer(*arguments, **options)

    return clone_graph(model, lambda layer: layer, called).input, outputs
