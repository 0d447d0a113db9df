"""Fine-tuning and training: recipes, data, optimizers, evaluation."""

from convnext_keras.surgery import average, merge_lora
from convnext_keras.training.clip_finetuning import (
    CLIP_RECIPE,
    Choice,
    RetrievalRecall,
    ZeroShotAccuracy,
    choose_between,
    fine_tune_clip,
    zero_shot_accuracy,
)
from convnext_keras.training.datasets import Examples, find_duplicates, held_out_part, read_examples, split
from convnext_keras.training.evaluation import Evaluation, evaluate
from convnext_keras.training.finetuning import Trained, fine_tune, parts_of
from convnext_keras.training.image_text import Pairs, prompts, read_pairs
from convnext_keras.training.lora import enable_lora
from convnext_keras.training.model_soups import greedy_soup
from convnext_keras.training.optimizers import LayerwiseOptimizer, layerwise
from convnext_keras.training.param_groups import Group, describe
from convnext_keras.training.presets import RECIPES, Recipe, recipe_named
from convnext_keras.training.reports import save

__all__ = [
    "CLIP_RECIPE",
    "RECIPES",
    "Choice",
    "Evaluation",
    "Examples",
    "Group",
    "LayerwiseOptimizer",
    "Pairs",
    "Recipe",
    "RetrievalRecall",
    "Trained",
    "ZeroShotAccuracy",
    "average",
    "choose_between",
    "describe",
    "enable_lora",
    "evaluate",
    "find_duplicates",
    "fine_tune",
    "fine_tune_clip",
    "greedy_soup",
    "held_out_part",
    "layerwise",
    "merge_lora",
    "parts_of",
    "prompts",
    "read_examples",
    "read_pairs",
    "recipe_named",
    "save",
    "split",
    "zero_shot_accuracy",
]
