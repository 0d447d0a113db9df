"""Training models that one device does not hold: how their weights are split, and activations that are not kept."""

import itertools
import re
from typing import Any

import keras

from convnext_keras.feature_extraction import stage_outputs
from convnext_keras.layer_names import parse_layer_name
from convnext_keras.layers import register
from convnext_keras.surgery import require_deterministic, to_functional

# The two dense layers of a block, of both towers: the hidden axis between them is split, so that each device has some
# of the hidden units whole, and one sum over the devices a block is all that they exchange. The queries, keys and
# values of all heads are such an axis too.
COLUMN_PARALLEL = frozenset(
    (
        *("pointwise_conv_1", "grn", "mlp_in", "attention_in", "projection_hidden"),
        *("downsampling_conv", "head_dense", "text_token_embedding", "projection", "text_projection"),
    )
)
ROW_PARALLEL = frozenset(("pointwise_conv_2", "mlp_out", "attention_out"))


def layout_map(model: keras.Model, mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
    """Returns how a large model's weights are split over devices, for `keras.distribution.ModelParallel` (JAX only).

    Dense kernels of blocks are split along their hidden axis; those of downsampling and of the classifier, and the
    embeddings of tokens, along their outputs. What is small is on every device.

    Args:
        model: A ConvNeXt or ConvNeXt-CLIP of the same sizes: a weight that cannot be split evenly is on every
            device. Build the model to train within the distribution, so that it never is on one device as a whole.
        mesh: Devices with the axes `"batch"` and `"model"`.

    Raises:
        ValueError: If the mesh has other axes.

    Example:
        >>> from convnext_keras import ConvNeXtAtto, distributed
        >>> mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), ["cpu:0", "cpu:1"])
        >>> layouts = distributed.layout_map(ConvNeXtAtto(weights=None, input_shape=(32, 32, 3)), mesh)
        >>> layouts["convnext_atto_stage_0_block_0_pointwise_conv_1/kernel"].axes
        (None, 'model')
    """
    if tuple(mesh.axis_names) != ("batch", "model"):
        raise ValueError(f"mesh must have the axes ('batch', 'model'). Received: {tuple(mesh.axis_names)}")
    layouts, share = keras.distribution.LayoutMap(mesh), mesh.shape[1]
    for weight in model.weights:
        axis = shard_axis(weight.path, len(weight.shape))
        if axis is not None and weight.shape[axis] % share == 0:
            axes: list[str | None] = [None] * len(weight.shape)
            axes[axis] = "model"
            layouts[f"^{re.escape(weight.path)}$"] = keras.distribution.TensorLayout(axes)
    return layouts


def shard_axis(path: str, rank: int) -> int | None:
    """Returns the axis by which a weight is split over devices, None if it is small.

    Example:
        >>> shard_axis("text_block_0_mlp_out/kernel", rank=2), shard_axis("text_block_0_mlp_out/bias", rank=1)
        (0, None)
    """
    reading = parse_layer_name(path.split("/")[-2]) if "/" in path else None
    role = reading[1].role if reading else ""
    if role in COLUMN_PARALLEL:
        return rank - 1
    return 0 if role in ROW_PARALLEL and rank > 1 else None


@register
class RematModel(keras.Model):
    """Model that stores the outputs of its stages only and recomputes the activations in between for the gradients.

    It takes one more forward pass a step. It shares its weights with the model that it was
    made of, by `with_rematerialization`.

    Args:
        segments: Models whose outputs are the next one's inputs.
    """

    def __init__(self, segments: list[keras.Model], **options: Any) -> None:
        super().__init__(**options)
        self.segments = segments

    def call(self, inputs, training=False):
        """Returns the outputs of the last segment."""
        for segment in self.segments:
            run = keras.remat(lambda tensor, segment=segment: segment(tensor, training=True)) if training else segment
            inputs = run(inputs)
        return inputs


def with_rematerialization(model: keras.Model) -> RematModel:
    """Returns a model to train in place of another, with its weights, in less memory; see `RematModel`.

    Args:
        model: A ConvNeXt without stochastic depth, whose random numbers would differ the second time.

    Raises:
        ValueError: If it has no stages, or random layers.

    Example:
        >>> from convnext_keras import create_model, distributed
        >>> model = create_model("convnext_mini.digits")
        >>> training = distributed.with_rematerialization(model)
        >>> len(training.segments)
        5
    """
    inputs, stages = stage_outputs(to_functional(model))
    if not stages:
        raise ValueError(f"{model.name!r} has no stages.")
    require_deterministic(model)
    cuts = [inputs, *stages.values(), model.output]
    segments = [keras.Model(before, after) for before, after in itertools.pairwise(cuts)]
    return RematModel(segments, name=f"{model.name}_rematerialized")
