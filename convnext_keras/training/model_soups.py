"""Soups: averages of fine-tuned models, all of them or those that help."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from convnext_keras.surgery import average_weights
from convnext_keras.training.evaluation import evaluate


def greedy_soup(models: Sequence[keras.Model], data: Any, **options: Any) -> keras.Model:
    """Returns the average of those models that make it better, tried from the best on.

    "Model soups" (https://arxiv.org/abs/2203.05482v3), recipe 1. On the images that it is chosen with, the soup is at
    least as good as the best of the models.

    Args:
        models: Classifiers of one architecture, tuned from the same weights, such as with several seeds or configs.
        data: Images that none was trained on; see `load_dataset`.
        **options: Options of `evaluate`.

    Returns:
        A new model.

    Raises:
        ValueError: See `average_weights` and `evaluate`.

    Example:
        >>> from convnext_keras import create_model, training
        >>> models = [create_model("convnext_mini.digits") for _ in range(2)]
        >>> soup = training.greedy_soup(models, (np.zeros((2, 8, 8, 3), "uint8"), ["zero", "one"]))
        >>> soup.output_shape
        (None, 10)
    """

    def measure(model: keras.Model) -> float:
        return next(iter(evaluate(model, data, **options).metrics.values()))  # the most important one

    chosen, best = [], -np.inf
    for model in sorted(models, key=measure, reverse=True):
        value = measure(average_weights([*chosen, model]))
        if value >= best:
            chosen, best = [*chosen, model], value
    return average_weights(chosen)
