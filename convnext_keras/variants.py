"""The architectures of the family, one row each; apart from the builders in `convnext` because the table is long."""

from typing import NamedTuple


class Variant(NamedTuple):
    """One architecture of the family.

    Attributes:
        depths: blocks in each stage.
        dims: channels in each stage.
        parameters: published count with a classifier of 1,000 classes.
        input_size: height and width in pixels that the model has by default.
        stem: `"patch"`, one convolution of `patch_size`; `"overlap"`, two of 3x3 and stride 2; `"overlap_gelu"`, with
            an activation between them.
        stem_width: channels between the two convolutions of an overlapping stem.
        stem_norm: whether a norm follows the stem.
        patch_size: kernel and stride of a patch stem, in pixels.
        kernel_sizes: of the depthwise convolution in each stage.
        norm: a name in `NORMS`.
        epsilon: of every norm.
        activation: a name in `ACTIVATIONS`.
        response_norm: global response normalisation in each block, as ConvNeXt V2 has it.
        layer_scale: whether blocks have the layer scale of V1.
        head_norm_first: norm before the pooling and not after it.
        head_hidden: width of a hidden layer in the head, 0 for none.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    parameters: int | None = None
    input_size: int = 224
    stem: str = "patch"
    stem_width: int = 0
    stem_norm: bool = True
    patch_size: int = 4
    kernel_sizes: tuple[int, ...] = (7, 7, 7, 7)
    norm: str = "layer"
    epsilon: float = 1e-6
    activation: str = "gelu"
    response_norm: bool = False
    layer_scale: bool = True
    head_norm_first: bool = False
    head_hidden: int = 0

    @property
    def minimum_size(self) -> int:
        """The smallest height and width in pixels that leave one pixel after the last stage."""
        return self.patch_size * 2 ** (len(self.depths) - 1)


# Depths and widths that several rows share.
SIX, EIGHT, NINE, DEEP = (2, 2, 6, 2), (2, 2, 8, 2), (3, 3, 9, 3), (3, 3, 27, 3)
ATTO, FEMTO, PICO, NANO = (40, 80, 160, 320), (48, 96, 192, 384), (64, 128, 256, 512), (80, 160, 320, 640)
TINY, BASE, LARGE, XLARGE = (96, 192, 384, 768), (128, 256, 512, 1024), (192, 384, 768, 1536), (256, 512, 1024, 2048)
XXLARGE, HUGE, ZEPTO = (384, 768, 1536, 3072), (352, 704, 1408, 2816), (32, 64, 128, 256)
TEST = (32, 64, 96, 128)
V2 = {"response_norm": True, "layer_scale": False}
OVERLAP = {"stem": "overlap"}
# The stem of Meta's isotropic models: one convolution to the resolution that all blocks keep.
ISOTROPIC = {"patch_size": 16, "stem_norm": False, "kernel_sizes": (7,)}

# The paper's five, then timm's names (https://github.com/huggingface/pytorch-image-models, convnext.py of 1.0.31).
VARIANTS = {
    "convnext_tiny": Variant(NINE, TINY, 28_589_128),
    "convnext_small": Variant(DEEP, TINY, 50_223_688),
    "convnext_base": Variant(DEEP, BASE, 88_591_464),
    "convnext_large": Variant(DEEP, LARGE, 197_767_336),
    "convnext_xlarge": Variant(DEEP, XLARGE, 350_196_968),
    "convnext_atto": Variant(SIX, ATTO, 3_695_520),
    "convnext_atto_ols": Variant(SIX, ATTO, 3_702_912, stem_width=24, **OVERLAP),
    "convnext_atto_rms": Variant(SIX, ATTO, 3_693_040, norm="rms"),
    "convnext_femto": Variant(SIX, FEMTO, 5_217_784),
    "convnext_femto_ols": Variant(SIX, FEMTO, 5_226_520, stem_width=24, **OVERLAP),
    "convnext_pico": Variant(SIX, PICO, 9_045_672),
    "convnext_pico_ols": Variant(SIX, PICO, 9_061_928, stem_width=32, **OVERLAP),
    "convnext_nano": Variant(EIGHT, NANO, 15_593_560),
    "convnext_nano_ols": Variant(EIGHT, NANO, 15_649_560, stem_width=80, **OVERLAP),
    "convnext_tiny_hnf": Variant(NINE, TINY, 28_589_128, head_norm_first=True),
    "convnext_large_mlp": Variant(DEEP, LARGE, 200_128_168, head_hidden=1536),
    "convnext_xxlarge": Variant((3, 4, 30, 3), XXLARGE, 846_471_016, epsilon=1e-5),
    "convnext_zepto_rms": Variant((2, 2, 4, 2), ZEPTO, 2_155_656, norm="simple"),
    "convnext_zepto_rms_ols": Variant(
        (2, 2, 4, 2), ZEPTO, 2_164_232, stem="overlap_gelu", stem_width=32, norm="simple"
    ),
    "convnextv2_atto": Variant(SIX, ATTO, 3_708_400, **V2),
    "convnextv2_femto": Variant(SIX, FEMTO, 5_233_240, **V2),
    "convnextv2_pico": Variant(SIX, PICO, 9_066_280, **V2),
    "convnextv2_nano": Variant(EIGHT, NANO, 15_623_800, **V2),
    "convnextv2_tiny": Variant(NINE, TINY, 28_635_496, **V2),
    "convnextv2_small": Variant(DEEP, TINY, 50_318_440, **V2),
    "convnextv2_base": Variant(DEEP, BASE, 88_717_800, **V2),
    "convnextv2_large": Variant(DEEP, LARGE, 197_956_840, **V2),
    "convnextv2_huge": Variant(DEEP, HUGE, 660_289_640, **V2),
    "convnext_isotropic_small": Variant((18,), (384,), 22_308_712, layer_scale=False, **ISOTROPIC),
    "convnext_isotropic_base": Variant((18,), (768,), 87_083_752, layer_scale=False, **ISOTROPIC),
    "convnext_isotropic_large": Variant((36,), (1024,), 305_942_504, **ISOTROPIC),
    "test_convnext": Variant((1, 2, 4, 2), (24, 32, 48, 64), 272_128, 160, epsilon=1e-5, activation="gelu_tanh"),
    "test_convnext2": Variant((1, 1, 1, 1), TEST, 477_800, 160, epsilon=1e-5, activation="gelu_tanh"),
    "test_convnext3": Variant(
        (1, 1, 1, 1), TEST, 468_840, 160, epsilon=1e-5, activation="silu", kernel_sizes=(7, 5, 5, 3)
    ),
    # This project's own, for small pictures: 32 x 32 pixels leave 2 x 2 after the last stage.
    "convnext_mini": Variant((1, 1, 3, 1), (32, 48, 64, 128), 460_664, 32, patch_size=2),
}
