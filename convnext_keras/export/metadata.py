"""Metadata of an exported model, as plain data."""

import dataclasses
import importlib.metadata
from typing import Any

import keras
import numpy as np
from keras import ops

from convnext_keras.clip.text_encoder import PositionEmbedding
from convnext_keras.data.transforms import NormalizationStats
from convnext_keras.model import get_pretrained_info, get_problem_type
from convnext_keras.pretrained_info import PretrainedInfo
from convnext_keras.problem_types import REGRESSION
from convnext_keras.segmentation import is_segmentation_model
from convnext_keras.surgery import flatten_layers

CLASSIFIER_OUTPUTS = ("probabilities", "logits", "values")  # names of the output of a classifier or regressor
TOWERS = ("image_encoder", "text_encoder")


def build_metadata(model: keras.Model, ready: keras.Model, format: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Builds the metadata of an exported model."""
    row, layout, is_text = ready.inputs[0], facts["layout"], len(ready.inputs[0].shape) == 2
    pretrained_info = get_pretrained_info(model) or PretrainedInfo()
    transform, edges = pretrained_info.transform, row.shape[1:3] if layout == "nhwc" else row.shape[2:]
    if transform and None not in edges and edges not in (transform.size, (transform.size, transform.size)):
        pretrained_info = dataclasses.replace(
            pretrained_info, transform=transform._replace(size=edges, resize_size=None)
        )
    outputs = output_names(model)
    if outputs[0] in CLASSIFIER_OUTPUTS and not is_segmentation_model(model):
        pretrained_info = dataclasses.replace(pretrained_info, problem_type=get_problem_type(model))
    return {
        "convnext_keras": importlib.metadata.version("convnext-keras"),
        "format": format,
        "input": row.name,
        "shape": [*row.shape],
        "dtype": row.dtype,
        **({**facts, "layout": None} if is_text else facts),
        "tokenizer": get_tokenizer_config(model) if is_text else None,
        "outputs": outputs,
        "is_segmentation": is_segmentation_model(model),
        **pretrained_info.to_config(),
    }


def output_names(model: keras.Model) -> list[str]:
    """Returns the names of a model's outputs."""
    outputs = model.outputs
    if len(outputs) > 1:
        return [f"features_{number}" for number in range(len(outputs))]
    if is_segmentation_model(model):
        return ["probabilities" if isinstance(model.layers[-1], keras.layers.Softmax) else "logits"]
    if len(outputs[0].shape) == 4:
        return ["features"]
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or model.name in TOWERS:
        return ["embeddings"]
    if get_problem_type(model) == REGRESSION:
        return ["values"]
    return ["logits" if last.activation is keras.activations.linear else "probabilities"]


def get_tokenizer_config(model: keras.Model) -> dict[str, int | None]:
    """Returns the arguments of the `Tokenizer` of a text tower."""
    words = next(layer.input_dim for layer in flatten_layers(model) if isinstance(layer, keras.layers.Embedding))
    return {"vocab_size": words, "context_length": get_context_length(model)}


def get_context_length(model: keras.Model) -> int | None:
    """Returns the maximum number of tokens of a text tower; None for another model."""
    layers = [layer for layer in flatten_layers(model) if isinstance(layer, PositionEmbedding)]
    return layers[0].context_length if layers else None


def get_embedded_stats(model: keras.Model) -> NormalizationStats:
    """Returns the statistics of the normalization inside a model, for pixels in 0..1.

    Raises:
        ValueError: If it has none.
    """
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            mean, variance = (np.ravel(np.asarray(ops.convert_to_numpy(x))) for x in (layer.mean, layer.variance))
            return NormalizationStats(tuple((mean / 255).tolist()), tuple((np.sqrt(variance) / 255).tolist()))
    raise ValueError(f"{model.name!r} has no normalization inside: it takes normalized pixels as it is.")
