"""ConvNeXt-CLIP in Keras 3: images and texts in one space."""

from convnext_keras.clip.constructors import (
    CLIPConvNeXt,
    CLIPConvNeXtBase,
    CLIPConvNeXtBaseW,
    CLIPConvNeXtBaseW320,
    CLIPConvNeXtLargeD,
    CLIPConvNeXtLargeD320,
    CLIPConvNeXtXXLarge,
    create_model,
    list_weights,
)
from convnext_keras.clip.embedder import Embedder, SimilarityScores
from convnext_keras.clip.index import Hit, PictureIndex
from convnext_keras.clip.lance import LanceIndex
from convnext_keras.clip.model import CLIP
from convnext_keras.clip.retrieval import ImageIndex
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.clip.training import ContrastiveLoss, RandomCropAndErase, interpolate
from convnext_keras.clip.zero_shot import (
    Prediction,
    ZeroShotClassifier,
    imagenet_classes,
    imagenet_templates,
)
from convnext_keras.clip_variants import ClipVariant, TextTower

__all__ = [
    "CLIP",
    "CLIPConvNeXt",
    "CLIPConvNeXtBase",
    "CLIPConvNeXtBaseW",
    "CLIPConvNeXtBaseW320",
    "CLIPConvNeXtLargeD",
    "CLIPConvNeXtLargeD320",
    "CLIPConvNeXtXXLarge",
    "ClipVariant",
    "ContrastiveLoss",
    "Embedder",
    "Hit",
    "ImageIndex",
    "LanceIndex",
    "PictureIndex",
    "Prediction",
    "RandomCropAndErase",
    "SimilarityScores",
    "TextTower",
    "Tokenizer",
    "ZeroShotClassifier",
    "create_model",
    "imagenet_classes",
    "imagenet_templates",
    "interpolate",
    "list_weights",
]
