"""The ConvNeXt-CLIP architectures, one row each; apart from `clip` so that descriptions can name them."""

from typing import NamedTuple

from convnext_keras.variants import VARIANTS, Activation, Variant, parameter_count

# Those of CLIP's tokenizer, which must not need this module: it is used without Keras.
VOCABULARY_SIZE, CONTEXT_LENGTH = 49_408, 77


class TextTower(NamedTuple):
    """The sizes of the text tower of a ConvNeXt-CLIP.

    Attributes:
        width: channels of every token.
        heads: of the attention; 64 channels each in all published models.
        depth: number of blocks.
        context_length: most tokens of a text.
        vocabulary_size: number of token ids.
        activation: of the blocks; see `Variant`.
        mlp_ratio: width of their hidden layer for one of `width`.
    """

    width: int
    heads: int
    depth: int
    context_length: int = CONTEXT_LENGTH
    vocabulary_size: int = VOCABULARY_SIZE
    activation: Activation = "gelu"
    mlp_ratio: float = 4.0

    @property
    def mlp_width(self) -> int:
        """Channels of the hidden layer of a block."""
        return int(self.width * self.mlp_ratio)


class ClipVariant(NamedTuple):
    """One ConvNeXt-CLIP architecture.

    Attributes:
        trunk: the ConvNeXt of the image tower.
        text: sizes of the text tower.
        embedding: width of the space that both towers end in.
        image_size: height and width in pixels that the weights were trained at, or `(height, width)`.
        parameters: published count.
        projection_hidden: width of a hidden layer between the trunk and the embedding, None if there is none.
        projection_bias: whether the projection adds a bias.
        logit_bias: whether a bias is added to the logits, as models trained with the sigmoid loss have it.
    """

    trunk: Variant
    text: TextTower
    embedding: int
    image_size: int | tuple[int, int] = 224
    parameters: int | None = None
    projection_hidden: int | None = None
    projection_bias: bool = False
    logit_bias: bool = False


def clip_parameter_count(variant: ClipVariant) -> int:
    """How many numbers a ConvNeXt-CLIP is trained in.

    Example:
        >>> clip_parameter_count(CLIP_VARIANTS["convnext_base_w"])
        179385345
    """
    trunk, text, embedding = variant.trunk, variant.text, variant.embedding
    features = trunk.head_hidden or trunk.dims[-1] * (2 if trunk.head_pooling == "catavgmax" else 1)
    hidden = variant.projection_hidden
    projection = (features + 1) * hidden + hidden * embedding if hidden else features * embedding
    width = text.width
    block = 4 * width**2 + 8 * width + (2 * width + 1) * text.mlp_width + width
    tokens = (text.vocabulary_size + text.context_length) * width + text.depth * block + 2 * width + width * embedding
    biases = embedding * variant.projection_bias + variant.logit_bias
    return parameter_count(trunk) + projection + tokens + 1 + biases


MINI, BASE, LARGE, XXLARGE = (VARIANTS[f"convnext_{size}"] for size in ("mini", "base", "large", "xxlarge"))
# OpenCLIP's names and sizes (model_configs/convnext_*.json of 3.3.0); the last is this project's own.
CLIP_VARIANTS = {
    "convnext_base": ClipVariant(BASE, TextTower(512, 8, 12), 512, 224, 151_518_849),
    "convnext_base_w": ClipVariant(BASE, TextTower(640, 10, 12), 640, 256, 179_385_345),
    "convnext_base_w_320": ClipVariant(BASE, TextTower(640, 10, 12), 640, 320, 179_385_345),
    "convnext_large_d": ClipVariant(LARGE, TextTower(768, 12, 16), 768, 256, 351_772_609, 1536),
    "convnext_large_d_320": ClipVariant(LARGE, TextTower(768, 12, 16), 768, 320, 351_772_609, 1536),
    "convnext_xxlarge": ClipVariant(XXLARGE, TextTower(1024, 16, 24), 1024, 256, 1_200_576_385),
    "convnext_mini": ClipVariant(MINI, TextTower(96, 4, 3, 40, 2048), 96, 64, 889_329),
}
