"""Problem types of classifiers: what their outputs mean, and how logits become scores."""

import numpy as np

from convnext_keras.inference import softmax

SINGLE_LABEL, MULTI_LABEL, REGRESSION = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)
# The names are those of transformers, each with the activation of the classifier.
PROBLEM_TYPES: dict[str, str | None] = {SINGLE_LABEL: "softmax", MULTI_LABEL: "sigmoid", REGRESSION: None}
CLASSIFIER_ACTIVATIONS = tuple(word for word in PROBLEM_TYPES.values() if word)
DEFAULT_TOP_K = 5  # labels per image of a classifier with one label
DEFAULT_THRESHOLD = 0.5  # above which a label of a multi-label classifier is predicted


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns the probability of each logit, of the same shape, float32."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, "float32")))


def to_scores(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Returns the scores of logits `(N, C)`: probabilities, or the logits themselves for a regression.

    Args:
        logits: Outputs of a classifier without activation.
        problem_type: A key of `PROBLEM_TYPES`.

    Example:
        >>> to_scores(np.zeros((1, 2)), MULTI_LABEL).tolist()
        [[0.5, 0.5]]
    """
    activation = PROBLEM_TYPES[problem_type]
    if activation is None:
        return np.asarray(logits, "float32")
    return softmax(logits) if activation == "softmax" else sigmoid(logits)


def select_labels(
    scores: np.ndarray, problem_type: str, thresholds: np.ndarray | None = None, top_k: int | None = None
) -> np.ndarray:
    """Returns the indices of the predicted labels of one image, the best first.

    Args:
        scores: Scores of one image, `(C,)`; see `to_scores`.
        problem_type: A key of `PROBLEM_TYPES`. The values of a regression keep their order.
        thresholds: Scores `(C,)` above which a multi-label classifier predicts a label; None for 0.5.
        top_k: Maximum number of labels; None for 5, or for all above the thresholds of a multi-label classifier.

    Example:
        >>> select_labels(np.array([0.2, 0.9, 0.6]), MULTI_LABEL).tolist()
        [1, 2]
    """
    if problem_type == REGRESSION:
        return np.arange(len(scores))
    order = np.argsort(-scores, kind="stable")
    if problem_type == MULTI_LABEL:
        limits = np.full(len(scores), DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds)
        order = order[(scores > limits)[order]]
        return order[:top_k]
    return order[: top_k or DEFAULT_TOP_K]
