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
from convnext_keras.clip.encoder import Embedder, SimilarityScores
from convnext_keras.clip.losses import ContrastiveLoss, RandomCropAndErase, interpolate
from convnext_keras.clip.model import CLIP
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.clip.zero_shot import (
    Prediction,
    ZeroShotClassifier,
    imagenet_classes,
    imagenet_templates,
)
from convnext_keras.configs import ClipVariant, TextTower
from convnext_keras.retrieval.index import Hit, PictureIndex
from convnext_keras.retrieval.lance_index import LanceIndex
from convnext_keras.retrieval.memory_index import ImageIndex

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
