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


VARIANTS = {
    "convnext_tiny": Variant((3, 3, 9, 3), (96, 192, 384, 768), 28_589_128),
    "convnext_small": Variant((3, 3, 27, 3), (96, 192, 384, 768), 50_223_688),
    "convnext_base": Variant((3, 3, 27, 3), (128, 256, 512, 1024), 88_591_464),
    "convnext_large": Variant((3, 3, 27, 3), (192, 384, 768, 1536), 197_767_336),
    "convnext_xlarge": Variant((3, 3, 27, 3), (256, 512, 1024, 2048), 350_196_968),
    # This project's own, for small pictures: 32 x 32 pixels leave 2 x 2 after the last stage.
    "convnext_mini": Variant((1, 1, 3, 1), (32, 48, 64, 128), 460_664, input_size=32, patch_size=2),
}
