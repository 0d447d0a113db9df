"""Calls for pyright, right and wrong ones: `test_constructor_signatures.py` compares what it says with the comments."""

from pathlib import Path
from typing import assert_type

import keras

import convnext_keras
from convnext_keras import ConvNeXt, ConvNeXtTiny, ConvNeXtV2Huge, clip, create_model
from convnext_keras.pretrained_info import PretrainedInfo

model = ConvNeXtTiny(weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3))
assert_type(model.pretrained_info, PretrainedInfo | None)
network: keras.Model = model
ConvNeXtTiny(True, True, None, None, (224, 224, 3), None, 10, "softmax", "mine", drop_path_rate=0.1)
ConvNeXtTiny(weights=Path("mine.h5"), dtype="mixed_bfloat16", output_stride=8, layer_scale_init_value=None)
ConvNeXtV2Huge(classes=5)
ConvNeXt((1, 1), (8, 16), stem="overlap", stem_width=8, norm="rms", activation="silu", kernel_sizes=(7, 3))
create_model("convnext_mini.digits", weights=None)
towers = clip.CLIPConvNeXtBaseW(weights=None, image_size=320)
assert_type(towers, clip.CLIP)
assert_type(towers.image_encoder, keras.Model)
clip.CLIPConvNeXtBaseW("laion2b_s13b_b82k_augreg", dtype="float16")

ConvNeXtTiny(weight=None)  # reportCallIssue
ConvNeXtTiny(pooling="mean")  # reportArgumentType
ConvNeXtTiny(classes="ten")  # reportArgumentType
ConvNeXtTiny(input_shape="224")  # reportArgumentType
ConvNeXtTiny(True, True, None, None, None, None, 10, "softmax", "mine", 0.1)  # reportCallIssue
ConvNeXt((1, 1))  # reportCallIssue
ConvNeXt((1, 1), (8, 16), norm="batch")  # reportArgumentType
ConvNeXt((1, 1), (8, 16), drop_path=0.1)  # reportCallIssue
clip.CLIPConvNeXtBaseW(None, 320)  # reportCallIssue
clip.CLIPConvNeXtBaseW(classes=10)  # reportCallIssue
convnext_keras.ConvNeXtGigantic()  # reportAttributeAccessIssue
towers.encode_image([], batch_size="all")  # reportArgumentType
