"""Fine-tuning and training: recipes, data, optimizers, evaluation."""

from convnext_keras.training.data import Examples, read_examples, split
from convnext_keras.training.evaluation import Evaluation, evaluate
from convnext_keras.training.fitting import Trained, fine_tune, parts_of
from convnext_keras.training.groups import Group, describe
from convnext_keras.training.optimizers import LayerwiseOptimizer, layerwise
from convnext_keras.training.recipes import RECIPES, Recipe, recipe_named
from convnext_keras.training.reports import save

__all__ = [
    "RECIPES",
    "Evaluation",
    "Examples",
    "Group",
    "LayerwiseOptimizer",
    "Recipe",
    "Trained",
    "describe",
    "evaluate",
    "fine_tune",
    "layerwise",
    "parts_of",
    "read_examples",
    "recipe_named",
    "save",
    "split",
]
