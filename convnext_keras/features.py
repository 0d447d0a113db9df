"""Models out of models: the outputs of stages, and the layers inside."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from convnext_keras.names import read
from convnext_keras.provenance import ModelWithProvenance


def feature_extractor(model: keras.Model, stages: Sequence[int] = (0, 1, 2, 3)) -> ModelWithProvenance:
    """A model that gives the outputs of stages, which shares the layers and weights of `model`.

    Args:
        model: a model of this library, or one built on it, such as `Sequential([backbone, head])`.
        stages: which ones, 0 to 3, in the order wanted.

    Returns:
        A model with a list of outputs `(N, H / s, W / s, dims[stage])`, where `s` is 4, 8, 16, 32 (at most the model's
        `output_stride`); channels last, as the stages compute.

    Raises:
        ValueError: if the model has no such stage.

    Example:
        >>> from convnext_keras import ConvNeXtTiny
        >>> model = ConvNeXtTiny(weights=None, include_top=False, input_shape=(64, 64, 3))
        >>> [shape[1:] for shape in feature_extractor(model, stages=(0, 3)).output_shape]
        [(16, 16, 96), (2, 2, 768)]
    """
    inputs, outputs = _stage_outputs(functional(model))
    missing = [stage for stage in stages if stage not in outputs]
    if missing or not stages:
        raise ValueError(f"stages must be some of {sorted(outputs)} for {model.name!r}. Received: {tuple(stages)}")
    extractor = ModelWithProvenance(inputs, [outputs[stage] for stage in stages], name=f"{model.name}_features")
    extractor.provenance = model.provenance if isinstance(model, ModelWithProvenance) else None
    return extractor


def _stage_outputs(model: keras.Model) -> tuple[Any, dict[int, Any]]:
    """The input of a model, and the output of each stage in it or in a model that is one of its layers."""
    last_blocks = {}
    for layer in model.layers:
        reading = read(layer.name)
        if reading and reading[1].role == "add":
            last_blocks[reading[1].stage] = layer  # Blocks come in order: the last one stays.
    if last_blocks:
        return model.input, {stage: layer.output for stage, layer in last_blocks.items()}
    for nested in (layer for layer in model.layers if isinstance(layer, keras.Model)):
        inputs, inner = _stage_outputs(functional(nested))
        if inner:
            return _outputs_of_nested(model, nested, inputs, inner)
    return model.input, {}


def _outputs_of_nested(
    model: keras.Model, nested: keras.Model, inputs: Any, inner: dict[int, Any]
) -> tuple[Any, dict[int, Any]]:
    """`_stage_outputs` of a model, from those of one of its layers: what leads to the layer is run again."""
    extractor = keras.Model(inputs, [*inner.values()])
    outputs: dict[int, Any] = {}

    def called(layer: keras.Layer, *arguments: Any, **options: Any) -> Any:
        if layer is nested:
            results = extractor(*arguments)
            outputs.update(zip(inner, results if len(inner) > 1 else [results], strict=True))
        return layer(*arguments, **options)

    return rebuilt(model, lambda layer: layer, called).input, outputs


def functional(model: keras.Model) -> keras.Model:
    """The model itself, or a functional one with the layers of a `Sequential`.

    Raises:
        ValueError: if it is not built yet.
    """
    if not isinstance(model, keras.Sequential):
        return model
    if not model.built:
        raise ValueError(
            f"{model.name!r} has no input shape yet. Call it once on pixels, or start it with keras.Input."
        )
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def rebuilt(model: keras.Model, make: Callable[[keras.Layer], keras.Layer], call: Callable[..., Any]) -> keras.Model:
    """The graph of a functional model once more, from new inputs.

    Args:
        model: the model.
        make: gives the layer that takes a layer's place, which may be the same.
        call: is given that layer and the layer's arguments, and returns the outputs.
    """
    return keras.models.clone_model(model, clone_function=make, call_function=call)


def inner_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model and of the models in it, without these models themselves."""
    nested = ([*inner_layers(layer)] if isinstance(layer, keras.Model) else [layer] for layer in model.layers)
    return [layer for layers in nested for layer in layers]
