"""Models out of models: the outputs of stages, the layers inside, low-rank updates merged, and averages."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from convnext_keras.layers import register
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
    inputs, outputs = stage_outputs(functional(model))
    missing = [stage for stage in stages if stage not in outputs]
    if missing or not stages:
        raise ValueError(f"stages must be some of {sorted(outputs)} for {model.name!r}. Received: {tuple(stages)}")
    extractor = FeatureExtractor(inputs, [outputs[stage] for stage in stages], name=f"{model.name}_features")
    extractor.provenance = model.provenance if isinstance(model, ModelWithProvenance) else None
    return extractor


@register
class FeatureExtractor(ModelWithProvenance):
    """A model whose outputs are a list, also if there is one: Keras gives a single output without a list.

    Example:
        >>> from convnext_keras import create_model, feature_extractor
        >>> extractor = feature_extractor(create_model("convnext_mini.digits"), stages=(3,))
        >>> [features.shape for features in extractor.predict(np.zeros((2, 32, 32, 3)), verbose=0)]
        [(2, 2, 2, 128)]
    """

    def call(self, *arguments: Any, **options: Any) -> list[Any]:
        """Outputs of the stages."""
        return _as_list(super().call(*arguments, **options))

    def compute_output_spec(self, *arguments: Any, **options: Any) -> list[Any]:
        """Shapes and types of what `call` gives."""
        return _as_list(super().compute_output_spec(*arguments, **options))

    def predict_step(self, *arguments: Any) -> list[Any]:
        """Outputs of a batch."""
        return _as_list(super().predict_step(*arguments))


def _as_list(outputs: Any) -> list[Any]:
    return [*outputs] if isinstance(outputs, list | tuple) else [outputs]


def split_at_stage(model: keras.Model, stage: int) -> tuple[keras.Model, keras.Model]:
    """A model in two, which share its layers: from its input to the output of a stage, and from there to its output.

    Args:
        model: see `feature_extractor`.
        stage: 0 to 3.

    Raises:
        ValueError: if the model has no such stage.

    Example:
        >>> from convnext_keras import create_model
        >>> before, after = split_at_stage(create_model("convnext_mini.digits"), stage=3)
        >>> before.output_shape == after.input_shape
        True
    """
    model = functional(model)
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

    whole = rebuilt(model, lambda layer: layer, called)
    return keras.Model(whole.input, between[0]), keras.Model(between[0], whole.output)


def _nested_with_stages(model: keras.Model) -> keras.Model | None:
    """The layer that is a model with stages; None if the model has them itself, or there is none."""
    if any(reading and reading[1].role == "add" for reading in (read(layer.name) for layer in model.layers)):
        return None
    inside = (layer for layer in model.layers if isinstance(layer, keras.Model))
    return next((layer for layer in inside if stage_outputs(functional(layer))[1]), None)


def stage_outputs(model: keras.Model) -> tuple[Any, dict[int, Any]]:
    """The input of a model, and the output of each stage in it or in a model that is one of its layers."""
    last_blocks = {}
    for layer in model.layers:
        reading = read(layer.name)
        if reading and reading[1].role == "add":
            last_blocks[reading[1].stage] = layer  # Blocks come in order: the last one stays.
    if last_blocks:
        return model.input, {stage: layer.output for stage, layer in last_blocks.items()}
    for nested in (layer for layer in model.layers if isinstance(layer, keras.Model)):
        inputs, inner = stage_outputs(functional(nested))
        if inner:
            return _outputs_of_nested(model, nested, inputs, inner)
    return model.input, {}


def _outputs_of_nested(
    model: keras.Model, nested: keras.Model, inputs: Any, inner: dict[int, Any]
) -> tuple[Any, dict[int, Any]]:
    """`stage_outputs` of a model, from those of one of its layers: what leads to the layer is run again."""
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


def merge_lora(model: keras.Model) -> keras.Model:
    """A copy of a model in which low-rank updates (https://arxiv.org/abs/2106.09685v2) are part of the kernels.

    Args:
        model: any functional model, with layers on which `enable_lora` was called; the model itself if there are none.

    Returns:
        A model with the same outputs and the weights that it had before `enable_lora`, which can be folded, averaged,
        exported and saved as any other.

    Example:
        >>> from convnext_keras import create_model, training
        >>> model = create_model("convnext_mini.digits")
        >>> _ = training.enable_lora(model, rank=4)
        >>> len(training.merge_lora(model).weights) < len(model.weights)
        True
    """
    if not any(getattr(layer, "lora_enabled", False) for layer in inner_layers(model)):
        return model
    merged = _without_lora(functional(model))
    pairs = ([layer for layer in inner_layers(part) if layer.weights] for part in (merged, model))
    for new, old in zip(*pairs, strict=True):
        values = {variable.name: variable for variable in old.weights}
        if getattr(old, "lora_enabled", False):  # These properties have the update added.
            values |= {name: getattr(old, name) for name in ("kernel", "embeddings") if name in values}
        new.set_weights([keras.ops.convert_to_numpy(values[variable.name]) for variable in new.weights])
    if isinstance(model, ModelWithProvenance) and isinstance(merged, ModelWithProvenance):
        merged.provenance = model.provenance
    return merged


def _without_lora(model: keras.Model) -> keras.Model:
    def made(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return _without_lora(functional(layer))
        config = {key: value for key, value in layer.get_config().items() if not key.startswith("lora_")}
        return type(layer).from_config(config)

    return rebuilt(model, made, lambda layer, *args, **kwargs: layer(*args, **kwargs))


def check_deterministic(model: keras.Model) -> None:
    """Raises ValueError if a model has random layers, which computed once more would give something else."""
    if names := [weight.path for weight in model.non_trainable_variables if "seed_generator" in weight.path]:
        raise ValueError(
            f"{model.name!r} has random layers, such as {names[0].split('/')[0]}, which cannot be computed twice. "
            "Build it with drop_path_rate=0."
        )


def average(models: Sequence[keras.Model], weights: Sequence[float] | None = None) -> keras.Model:
    """A new model whose weights are the mean of others', a soup (https://arxiv.org/abs/2203.05482v3).

    Args:
        models: of one architecture, tuned from the same weights; low-rank updates are merged first.
        weights: of the mean, which sum to 1; None for equal ones.

    Raises:
        ValueError: if the models differ in their sizes, or the weights are not valid.

    Example:
        >>> from convnext_keras import create_model
        >>> models = [create_model("convnext_mini.digits") for _ in range(3)]
        >>> average(models).output_shape
        (None, 10)
    """
    models = [merge_lora(model) for model in models]
    parts = [1 / len(models)] * len(models) if weights is None and models else [*(weights or [])]
    if not models or len(parts) != len(models) or abs(sum(parts) - 1) > 1e-6:
        raise ValueError(f"There must be models, and as many weights that sum to 1. Received: {len(models)}, {parts}")
    rows: list[list[Any]] = [[keras.ops.convert_to_numpy(variable) for variable in model.weights] for model in models]
    for model, row in zip(models, rows, strict=True):
        if [value.shape for value in row] != [value.shape for value in rows[0]]:
            raise ValueError(f"{models[0].name!r} and {model.name!r} must be of the same variant.")
    mean = keras.models.clone_model(models[0])
    first = models[0]
    if isinstance(first, ModelWithProvenance) and isinstance(mean, ModelWithProvenance):
        mean.provenance = first.provenance
    mean.set_weights([_mean(values, parts) for values in zip(*rows, strict=True)])
    return mean


def _mean(values: Sequence[np.ndarray], parts: Sequence[float]) -> np.ndarray:
    """The weighted mean, exact where one has all of the weight; of whole numbers, which count, the first."""
    if values[0].dtype.kind in "iu":
        return values[0]
    chosen = [(value, part) for value, part in zip(values, parts, strict=True) if part]
    return chosen[0][0] if len(chosen) == 1 else np.sum([value * part for value, part in chosen], axis=0)
