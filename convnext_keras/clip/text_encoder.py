"""Text tower: token ids to one embedding, through a causal pre-norm transformer.

"Learning Transferable Visual Models From Natural Language Supervision" (https://arxiv.org/abs/2103.00020v1), section
2.4, with the exact GELU that OpenCLIP's ConvNeXt models have.
"""

from typing import Any

import keras
from keras import layers, ops

from convnext_keras.backend.common import to_float32
from convnext_keras.configs import CLIPTextConfig
from convnext_keras.initializers import Normal
from convnext_keras.layer_names import LayerName
from convnext_keras.layers import ACTIVATIONS, FusedDense, LayerNormalization, register
from convnext_keras.model import ConvNeXtModel

EPSILON = 1e-5  # of every norm


@register
class PositionEmbedding(layers.Layer):
    """Adds a learned vector for each position: `(N, L, C)` -> `(N, L, C)`, for any `L` up to the context length.

    Args:
        context_length: Number of positions.
    """

    def __init__(self, context_length: int, **kwargs):
        super().__init__(**kwargs)
        self.context_length = context_length

    def build(self, input_shape):
        initializer = Normal(stddev=0.01)
        shape = (self.context_length, input_shape[-1])
        self.embeddings = self.add_weight(name="embeddings", shape=shape, initializer=initializer)

    def call(self, inputs):
        """Adds the first `L` vectors, counted so that `L` may be unknown until the model runs."""
        positions = ops.cumsum(ops.ones_like(inputs[0, :, 0], dtype="int32")) - 1
        return inputs + ops.take(ops.convert_to_tensor(self.embeddings), positions, axis=0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "context_length": self.context_length}


@register
class CausalAttention(layers.Layer):
    """Self-attention of each token to itself and the tokens before it: `(N, L, 3 C)` -> `(N, L, C)`.

    The channels are queries, keys and values, in this order; each head owns adjacent channels of each third. The
    backend's fused attention is used where Keras offers one.

    Args:
        heads: Number of them.
    """

    def __init__(self, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, inputs):
        channels, dtype = inputs.shape[-1] // 3, inputs.dtype
        if keras.backend.standardize_dtype(dtype) == "float16" and keras.backend.backend() == "jax":
            inputs = to_float32(inputs)  # JAX has no attention in float16 on CPUs.
        heads = (-1, ops.shape(inputs)[1], self.heads, channels // self.heads)
        parts: Any = ops.split(inputs, 3, axis=-1)
        query, key, value = (ops.reshape(part, heads) for part in parts)
        outputs = ops.dot_product_attention(query, key, value, is_causal=True)
        return ops.cast(ops.reshape(outputs, (-1, ops.shape(inputs)[1], channels)), dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 3)

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


@register
class TextPooler(layers.Layer):
    """Projects the vector at each text's end token: `(N, L, C)` and ids `(N, L)` -> `(N, D)`.

    The end token has the largest id, so it is the first maximum. What follows it cannot reach it: attention is causal.

    Args:
        units: Width `D` of the embedding.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, inputs_shape, tokens_shape=None):
        channels = inputs_shape[-1]
        initializer = Normal(stddev=channels**-0.5)
        self.projection = self.add_weight(name="projection", shape=(channels, self.units), initializer=initializer)

    def call(self, inputs, tokens):
        # A sum of zeros and one vector: PyTorch's export fixes the number of rows where one takes it by its place.
        ends = ops.cast(ops.argmax(tokens, axis=-1, keepdims=True), "int32")
        is_end = ops.expand_dims(ops.arange(ops.shape(tokens)[1], dtype="int32") == ends, -1)
        return ops.matmul(ops.sum(ops.where(is_end, inputs, ops.zeros_like(inputs)), axis=1), self.projection)

    def compute_output_shape(self, inputs_shape, tokens_shape=None):
        return (inputs_shape[0], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def transformer_block(inputs, block: int, tower: CLIPTextConfig, dtype: Any):
    """Returns one residual block of causal self-attention and one of two dense layers: `(N, L, C)` -> `(N, L, C)`."""
    width = tower.width
    residual = width**-0.5 * (2 * tower.layers) ** -0.5

    def name(role: str) -> str:
        return str(LayerName(role, block=block))

    def norm(role: str):
        return LayerNormalization(epsilon=EPSILON, name=name(role), dtype=dtype)

    def dense(units: int, role: str, deviation: float, **options: Any):
        options |= {"kernel_initializer": Normal(stddev=deviation), "dtype": dtype}
        return FusedDense(units, name=name(role), **options)

    # Queries, keys and values in one product.
    x = dense(3 * width, "attention_in", width**-0.5)(norm("norm_1")(inputs))
    x = CausalAttention(tower.heads, name=name("attention"), dtype=dtype)(x)
    x = dense(width, "attention_out", residual)(x)
    x = layers.Add(name=name("attention_add"), dtype=dtype)([inputs, x])
    activation = ACTIVATIONS[tower.activation]
    y = dense(tower.mlp_width, "mlp_in", (2 * width) ** -0.5, activation=activation)(norm("norm_2")(x))
    y = dense(width, "mlp_out", residual)(y)
    return layers.Add(name=name("mlp_add"), dtype=dtype)([x, y])


def build_text_encoder(tower: CLIPTextConfig, embedding: int, dtype: Any, output_dtype: Any) -> ConvNeXtModel:
    """Returns the text tower as a functional model.

    Args:
        tower: Its sizes.
        embedding: Width of the output.
        dtype: Type or policy of its layers.
        output_dtype: Output dtype that of the last norm and the projection.

    Returns:
        A model from token ids `(N, L)`, `L` up to the context length, to embeddings `(N, embedding)` that are not
        normalized. Ids behind the end token do not matter, so rows may be cut at the longest text's end.
    """
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    initializer = Normal()
    options = {"embeddings_initializer": initializer, "name": "text_token_embedding", "dtype": dtype}
    x = layers.Embedding(tower.vocab_size, tower.width, **options)(tokens)
    x = PositionEmbedding(tower.context_length, name="text_position_embedding", dtype=dtype)(x)
    for block in range(tower.layers):
        x = transformer_block(x, block, tower, dtype)
    x = LayerNormalization(epsilon=EPSILON, name="text_final_norm", dtype=output_dtype)(x)
    x = TextPooler(embedding, name="text_projection", dtype=output_dtype)(x, tokens)
    return ConvNeXtModel(tokens, x, name="text_encoder")
