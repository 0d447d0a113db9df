"""The ConvNeXt-CLIP architectures, one row each."""

from typing import NamedTuple

from convnext_keras.clip.text_tower import TextTower
from convnext_keras.variants import VARIANTS, Variant


class ClipVariant(NamedTuple):
    """One ConvNeXt-CLIP architecture.

    Attributes:
        trunk: the ConvNeXt of the image tower.
        text: sizes of the text tower.
        embedding: width of the space that both towers end in.
        image_size: height and width in pixels that the weights were trained at.
        parameters: published count.
        projection_hidden: width of a hidden layer between the trunk and the embedding, None if there is none.
    """

    trunk: Variant
    text: TextTower
    embedding: int
    image_size: int = 224
    parameters: int | None = None
    projection_hidden: int | None = None


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
