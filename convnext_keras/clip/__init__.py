"""ConvNeXt-CLIP in Keras 3: images and texts in one embedding space."""

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
from convnext_keras.clip.encoder import DualEncoder, SimilarityScores
from convnext_keras.clip.losses import CLIPTrainTransform, ContrastiveLoss, SigmoidContrastiveLoss, interpolate_weights
from convnext_keras.clip.model import CLIP
from convnext_keras.clip.open_clip_names import create_model_and_transforms, get_tokenizer, list_pretrained
from convnext_keras.clip.tokenizer import Tokenizer
from convnext_keras.clip.zero_shot import (
    Prediction,
    ZeroShotClassifier,
    imagenet_classes,
    imagenet_templates,
)
from convnext_keras.configs import CLIPConfig, CLIPTextConfig

__all__ = [
    "CLIP",
    "CLIPConfig",
    "CLIPConvNeXt",
    "CLIPConvNeXtBase",
    "CLIPConvNeXtBaseW",
    "CLIPConvNeXtBaseW320",
    "CLIPConvNeXtLargeD",
    "CLIPConvNeXtLargeD320",
    "CLIPConvNeXtXXLarge",
    "CLIPTextConfig",
    "CLIPTrainTransform",
    "ContrastiveLoss",
    "DualEncoder",
    "Prediction",
    "SigmoidContrastiveLoss",
    "SimilarityScores",
    "Tokenizer",
    "ZeroShotClassifier",
    "create_model",
    "create_model_and_transforms",
    "get_tokenizer",
    "imagenet_classes",
    "imagenet_templates",
    "interpolate_weights",
    "list_pretrained",
    "list_weights",
]
