"""Losses of classifiers and regressions, on logits."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from convnext_keras.layers import register
from convnext_keras.problem_types import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from convnext_keras.validation import format_choices


@register
class MultiLabelLoss(keras.losses.Loss):
    """Binary cross-entropy of each label, with the focusing of the focal and the asymmetric loss.

    With `p` the probability of a label and `q = max(p - margin, 0)`, a positive label contributes
    `-w (1 - p)^gamma_positive log(p)` and a negative one `-q^gamma_negative log(1 - q)`; the result is the mean over
    the labels. All three parameters 0 give binary cross-entropy, equal gammas the focal loss
    (https://arxiv.org/abs/1708.02002v2, without its alpha), others the asymmetric loss
    (https://arxiv.org/abs/2009.14119v4, equation 7).

    Args:
        gamma_positive: Exponent for positive labels, 0 or more. Defaults to 0.
        gamma_negative: Exponent for negative labels, 0 or more. Defaults to 0.
        margin: Probability 0..1 that is subtracted for negative labels. Defaults to 0.
        positive_weights: Weight `w` of the positives of each label; None for 1.
        label_smoothing: Fraction by which targets move to 0.5. Defaults to 0.
        name: Name of the loss.

    Example:
        >>> loss = MultiLabelLoss(gamma_negative=4, margin=0.05)
        >>> round(float(loss(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))), 4)
        0.3588
    """

    def __init__(
        self,
        gamma_positive: float = 0.0,
        gamma_negative: float = 0.0,
        margin: float = 0.0,
        positive_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        name: str = "multi_label_loss",
    ) -> None:
        super().__init__(name=name)
        self.gamma_positive, self.gamma_negative, self.margin = gamma_positive, gamma_negative, margin
        self.positive_weights = None if positive_weights is None else [float(weight) for weight in positive_weights]
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """Returns the loss of each image `(N,)` from targets and logits `(N, C)`."""
        targets, logits = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        targets = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        positive: Any = -ops.softplus(-logits)  # log(p)
        negative: Any = -ops.softplus(logits)  # log(1 - p)
        probability: Any = ops.sigmoid(logits)
        shifted: Any = probability
        if self.margin:
            shifted = ops.maximum(probability - self.margin, 0.0)
            negative = ops.log1p(-shifted)
        if self.gamma_positive:
            positive = positive * ops.power(ops.maximum(1 - probability, keras.config.epsilon()), self.gamma_positive)
        if self.gamma_negative:
            negative = negative * ops.power(ops.maximum(shifted, keras.config.epsilon()), self.gamma_negative)
        if self.positive_weights is not None:
            positive = positive * ops.convert_to_tensor(self.positive_weights, "float32")
        return -ops.mean(targets * positive + (1 - targets) * negative, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("gamma_positive", "gamma_negative", "margin", "positive_weights", "label_smoothing", "name")
        return {name: getattr(self, name) for name in names}


@register
class GeneralizedCrossEntropy(keras.losses.Loss):
    """Loss that tolerates wrong labels: `(1 - p^q) / q` for the probability `p` of the class.

    It is the cross-entropy for `q` near 0 and the mean absolute error for `q = 1`
    (https://arxiv.org/abs/1805.07836v4, equation 6).

    Args:
        q: Exponent, above 0 and up to 1. Defaults to 0.7, the value of the paper.
        name: Name of the loss.

    Example:
        >>> round(float(GeneralizedCrossEntropy()(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))), 4)
        0.5492
    """

    def __init__(self, q: float = 0.7, name: str = "generalized_cross_entropy") -> None:
        super().__init__(name=name)
        self.q = q

    def call(self, y_true, y_pred):
        """Returns the loss of each image `(N,)` from targets and logits `(N, C)`."""
        log_probability: Any = ops.log_softmax(ops.cast(y_pred, "float32"), axis=-1)
        powers: Any = ops.exp(self.q * log_probability)
        return ops.sum(ops.cast(y_true, "float32") * (1 - powers), axis=-1) / self.q

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {"q": self.q, "name": self.name}


# Parameters of `MultiLabelLoss`; those of the papers.
FOCUSING = {
    "bce": {},
    "focal": {"gamma_positive": 2.0, "gamma_negative": 2.0},
    "asymmetric": {"gamma_negative": 4.0, "margin": 0.05},
}
REGRESSION_LOSSES = {
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
    "huber": keras.losses.Huber,
}
# By problem type, the first is the default.
LOSSES: dict[str, tuple[str, ...]] = {
    SINGLE_LABEL: ("cross_entropy", "bce", "focal", "asymmetric", "generalized_cross_entropy"),
    MULTI_LABEL: ("bce", "focal", "asymmetric"),
    REGRESSION: tuple(REGRESSION_LOSSES),
}

LOSS_NAMES = (*dict.fromkeys(itertools.chain(*LOSSES.values())), "sigmoid")  # the last one is for a ConvNeXt-CLIP


def build_loss(
    name: str | None,
    problem_type: str,
    label_smoothing: float = 0.0,
    positive_weights: Sequence[float] | None = None,
) -> keras.losses.Loss:
    """Returns a loss of targets `(N, C)` and logits `(N, C)`.

    Args:
        name: A name in `LOSSES[problem_type]`. None for the first one there.
        problem_type: A key of `PROBLEM_TYPES`.
        label_smoothing: Fraction 0..1 of the target that is spread over all classes.
        positive_weights: See `MultiLabelLoss`; for a multi-label problem only.

    Raises:
        ValueError: If the loss does not fit the problem type.

    Example:
        >>> build_loss(None, "regression").name
        'mean_squared_error'
    """
    choices = LOSSES[problem_type]
    name = choices[0] if name is None else name
    if name not in choices:
        raise ValueError(f"loss must be {format_choices(choices)} for {problem_type}. Received: loss={name!r}")
    if label_smoothing and (PROBLEM_TYPES[problem_type] is None or name == "generalized_cross_entropy"):
        raise ValueError(f"label_smoothing cannot be combined with loss={name!r}. Set it to 0.")
    if name in REGRESSION_LOSSES:
        return REGRESSION_LOSSES[name]()
    if name == "cross_entropy":
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    if name == "focal" and problem_type == SINGLE_LABEL:
        # All classes weigh the same: alpha only scales the loss.
        return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True, label_smoothing=label_smoothing)
    if name == "generalized_cross_entropy":
        return GeneralizedCrossEntropy()
    return MultiLabelLoss(**FOCUSING[name], positive_weights=positive_weights, label_smoothing=label_smoothing)
