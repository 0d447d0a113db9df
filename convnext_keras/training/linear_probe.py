"""Linear probe: logistic or ridge regression on features that are computed once."""

import warnings
from typing import Any

import keras
import numpy as np

from convnext_keras.data.loader import iter_batches
from convnext_keras.data.transforms import ImageTransform as Transform
from convnext_keras.inference import BatchRunner
from convnext_keras.model import output_layer
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION
from convnext_keras.training.datasets import ImageDataset
from convnext_keras.training.splits import stratified_split

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100)  # of scikit-learn's C, the inverse of the regularization
HOLDOUT = 0.2  # of the examples that the strength is chosen on
INSTALL_HINT = 'The linear probe needs scikit-learn: pip install "convnext-keras[training]"'


def extract_features(
    model: keras.Model, examples: ImageDataset, transform: Transform, batch_size: int = 32
) -> np.ndarray:
    """Returns the inputs of the classifier, `(N, D)` float32."""
    head: Any = output_layer(model)
    run = BatchRunner(keras.Model(model.input, head.input))
    parts = [
        run(pixels.astype("float32"), batch_size)
        for _, pixels in iter_batches(examples.images, transform._replace(exif_transpose=True), batch_size)
    ]
    return np.concatenate(parts)


def fit_logistic_regression(
    features: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a multinomial logistic regression; returns kernel `(D, classes)` and bias.

    The strength of the regularization is the one of `C_GRID` with the least loss on a fifth that is left out; then
    all features are fitted. It is scikit-learn's `LogisticRegression` by L-BFGS.

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import log_loss
    except ImportError as error:
        raise ImportError(INSTALL_HINT) from error

    def regression(strength: float, chosen: Any = slice(None)) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 1,000 steps are near enough.
            return LogisticRegression(C=strength, max_iter=1000).fit(scaled[chosen], labels[chosen])

    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - mean) / deviation
    whole = ImageDataset([*range(len(labels))], labels, tuple(map(str, range(classes))))  # type: ignore[arg-type]
    strength = 1.0
    if min(whole.class_counts.values()) > 1:
        training, held_out = (np.array(part.images, int) for part in stratified_split(whole, HOLDOUT, seed))
        losses = {}
        for candidate in C_GRID:
            model = regression(candidate, training)
            scores = model.predict_proba(scaled[held_out])
            losses[candidate] = log_loss(labels[held_out], scores, labels=model.classes_)
        strength = min(losses, key=lambda candidate: losses[candidate])
    model = regression(strength)
    kernel, bias = model.coef_.T, model.intercept_
    if classes == 2:  # One column, for the second class.
        kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.array([-bias[0], bias[0]]) / 2
    kernel = kernel / deviation[:, None]
    return kernel.astype("float32"), (bias - mean @ kernel).astype("float32")


def fit_ridge(features: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits a ridge regression of values `(N, K)`; returns kernel `(D, K)` and bias `(K,)`.

    The strength of the regularization is chosen by scikit-learn's `RidgeCV`, by leaving out one image at a time.

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import RidgeCV
    except ImportError as error:
        raise ImportError(INSTALL_HINT) from error
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    model = RidgeCV([1 / strength for strength in C_GRID]).fit((features - mean) / deviation, values)
    kernel = np.asarray(model.coef_).reshape(values.shape[1], -1).T / deviation[:, None]
    return kernel.astype("float32"), (np.ravel(np.asarray(model.intercept_)) - mean @ kernel).astype("float32")


def fit_multi_label(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fits one logistic regression per label of `(N, C)`; returns kernel `(D, C)` and bias `(C,)`.

    A label that all or no images have gets a kernel of zeros and the logit of its frequency.
    """
    kernel, bias = np.zeros((features.shape[1], labels.shape[1]), "float32"), np.zeros(labels.shape[1], "float32")
    for index, column in enumerate((labels >= 0.5).astype(int).T):
        frequency = np.clip(column.mean(), 1 / (len(column) + 1), len(column) / (len(column) + 1))
        bias[index] = np.log(frequency / (1 - frequency))
        if 0 < column.sum() < len(column):
            both, offsets = fit_logistic_regression(features, column, 2, seed)
            kernel[:, index], bias[index] = both[:, 1] - both[:, 0], offsets[1] - offsets[0]
    return kernel, bias


def init_head_from_probe(model: keras.Model, examples: ImageDataset, transform: Transform, seed: int = 0) -> None:
    """Sets the classifier of a model to the linear probe of the features before it."""
    head: Any = output_layer(model)
    features = extract_features(model, examples, transform)
    if examples.problem_type == REGRESSION:
        kernel, bias = fit_ridge(features, examples.labels)
    elif examples.problem_type == MULTI_LABEL:
        kernel, bias = fit_multi_label(features, examples.labels, seed)
    else:
        kernel, bias = fit_logistic_regression(features, examples.class_indices, len(examples.class_names), seed)
    head.kernel.assign(kernel)
    head.bias.assign(bias)
