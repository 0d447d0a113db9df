"""The constructor of segmentation models on a backbone of the user's."""

import os
from collections.abc import Sequence
from typing import Any

import keras

from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.configs import CONVNEXT_CONFIGS, Decoder, SegmentationConfig
from convnext_keras.constructors import create_model
from convnext_keras.model import ConvNeXtModel
from convnext_keras.upernet import build_segmentation_model

HIDDEN_SIZES = {"upernet": 512, "fpn": 128, "unet": 256}  # by the decoder


def UPerNet(  # noqa: N802 - named like the constructors of the backbones
    backbone: keras.Model | str | os.PathLike,
    classes: int,
    *,
    decoder: Decoder = "upernet",
    hidden_size: int | None = None,
    pool_scales: Sequence[int] = (1, 2, 3, 6),
    output_norms: bool = True,
    activation: str | None = None,
    auxiliary_output: bool = False,
    auxiliary_channels: int = 256,
    input_shape: tuple[int | None, ...] = (None, None, 3),
    name: str | None = None,
) -> ConvNeXtModel:
    """Builds a segmentation model on a ConvNeXt, whose weights it keeps; those of the decoder are random.

    Args:
        backbone: Name of a weight set, variant, repository or folder for `create_model`, or a model: a ConvNeXt of
            four stages with or without classifier, or a ConvNeXt-CLIP, whose image encoder is taken.
        classes: Number of classes.
        decoder: `"upernet"` (https://arxiv.org/abs/1807.10221v1), as published with ConvNeXt; `"fpn"`, a feature
            pyramid of about a tenth of its parameters; or `"unet"`.
        hidden_size: Channels of the decoder; of a U-Net, those of its first step. None for 512, 128 and 256.
        pool_scales: Grids of the pyramid pooling of `"upernet"`.
        output_norms: Whether the outputs of the stages are normalized.
        activation: None for logits, or `"softmax"`.
        auxiliary_output: Whether the logits of an auxiliary classifier on the third stage are a second output, for
            training.
        auxiliary_channels: Channels of its convolution.
        input_shape: `(H, W, C)` in pixels of a backbone that is named; by default any height and width.
        name: Name of the model.

    Returns:
        A functional model from pixels `(N, H, W, C)` in 0..255 to float32 logits `(N, H, W, classes)`, or a list of
        two. `segment` makes label maps of them.

    Raises:
        ValueError: If the backbone has not four stages, or an argument is not valid.
        WeightsError: See `create_model`.

    Example:
        >>> from convnext_keras import segmentation
        >>> model = segmentation.UPerNet("convnext_mini.digits", classes=3, decoder="fpn")
        >>> model.predict(np.zeros((1, 40, 60, 3)), verbose=0).shape
        (1, 40, 60, 3)
    """
    if isinstance(backbone, DualEncoder):
        backbone = backbone.image_encoder
    if not isinstance(backbone, keras.Model):
        backbone = create_model(backbone, include_top=False, input_shape=input_shape)
    config = SegmentationConfig(
        CONVNEXT_CONFIGS["convnext_tiny"],  # not read: the backbone is built already
        decoder,
        HIDDEN_SIZES.get(decoder, 512) if hidden_size is None else hidden_size,
        tuple(pool_scales),
        output_norms,
        auxiliary_channels=auxiliary_channels,
    )
    options: dict[str, Any] = {"activation": activation, "auxiliary_output": auxiliary_output, "name": name}
    return build_segmentation_model(backbone, config, classes, **options)
