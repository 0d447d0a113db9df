"""Fine-tuning and training: recipes, data, optimizers, evaluation."""

from convnext_keras.features import average, merge_lora
from convnext_keras.training.adapters import enable_lora
from convnext_keras.training.contrastive import (
    CLIP_RECIPE,
    Choice,
    RetrievalRecall,
    ZeroShotAccuracy,
    choose_between,
    fine_tune_clip,
    zero_shot_accuracy,
)
from convnext_keras.training.data import Examples, find_duplicates, held_out_part, read_examples, split
from convnext_keras.training.evaluation import Evaluation, evaluate
from convnext_keras.training.fitting import Trained, fine_tune, parts_of
from convnext_keras.training.groups import Group, describe
from convnext_keras.training.optimizers import LayerwiseOptimizer, layerwise
from convnext_keras.training.pairs import Pairs, prompts, read_pairs
from convnext_keras.training.recipes import RECIPES, Recipe, recipe_named
from convnext_keras.training.reports import save
from convnext_keras.training.soups import greedy_soup

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
