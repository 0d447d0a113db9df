"""Labels of images in every usual form, as arrays."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from convnext_keras.data.images import to_array
from convnext_keras.problem_types import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from convnext_keras.validation import format_choices

MAX_SUM_ERROR = 1e-3  # of the probabilities of one image from 1


class EncodedLabels(NamedTuple):
    """Labels as an array.

    Attributes:
        labels: Class indices `(N,)` int64; or `(N, C)` float32: 0 and 1 per class of a multi-label problem,
            probabilities of soft labels, or the values of a regression.
        class_names: Name of each class, or of each value of a regression.
        problem_type: A key of `PROBLEM_TYPES`.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    problem_type: str


def encode_labels(
    labels: Sequence[Any], class_names: Sequence[Any] | None = None, problem_type: str | None = None
) -> EncodedLabels:
    """Converts one label per image to an array.

    Args:
        labels: Per image a name, an index, or a number; several names in a list, tuple or set; or a row of numbers.
        class_names: Names in the order of the classes. None for those that occur, sorted.
        problem_type: A key of `PROBLEM_TYPES`. None detects it: lists of names and rows of several ones are
            multi-label, rows that sum to 1 are one class per image, or probabilities.

    Raises:
        ValueError: If the labels do not fit the problem type, or a name is not in `class_names`.

    Example:
        >>> encode_labels([["cat", "dog"], [], ["dog"]]).labels.tolist()
        [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    """
    if problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(
            f"problem_type must be {format_choices(PROBLEM_TYPES)}. Received: problem_type={problem_type!r}"
        )
    labels = [_to_plain(label) for label in labels]
    is_list = any(isinstance(label, list) for label in labels)
    if problem_type == REGRESSION:
        return _encode_values(labels, class_names)
    if not is_list and problem_type != MULTI_LABEL:
        return _encode_indices(labels, class_names)
    rows = [label if isinstance(label, list) else [label] for label in labels]
    matrix = _as_matrix(rows, class_names)
    if matrix is None:
        return _encode_sets(rows, class_names, problem_type)
    return _encode_matrix(matrix, class_names, problem_type)


def _to_plain(label: Any) -> Any:
    """Returns a Python number or string, or a list of them."""
    if isinstance(label, str):
        return label
    if isinstance(label, bytes):
        return label.decode()
    if isinstance(label, set | frozenset):
        return sorted(label, key=str)
    if hasattr(label, "shape") or hasattr(label, "detach"):
        label = to_array(label)
        return _to_plain(label.tolist()) if label.ndim else _to_plain(label.item())
    return [_to_plain(item) for item in label] if isinstance(label, list | tuple) else label


def _as_matrix(rows: list[list[Any]], class_names: Sequence[Any] | None) -> np.ndarray | None:
    """Returns rows of numbers, one per class, as a matrix; None for lists of names or of indices."""
    widths = {len(row) for row in rows}
    if len(widths) != 1 or any(isinstance(item, str) or item is None for row in rows for item in row):
        return None
    matrix = np.array(rows, "float64")
    if class_names is not None:
        return matrix if matrix.shape[1] == len(class_names) else None
    return matrix if matrix.shape[1] > 1 and matrix.min() >= 0 and matrix.max() <= 1 else None


def _encode_matrix(matrix: np.ndarray, class_names: Sequence[Any] | None, problem_type: str | None) -> EncodedLabels:
    names = tuple(map(str, class_names or range(matrix.shape[1])))
    if not np.isfinite(matrix).all() or matrix.min() < 0 or matrix.max() > 1:
        raise ValueError(
            f"Rows of labels must have values 0 to 1. Received: {matrix.min():g} to {matrix.max():g}. For other "
            f"numbers, set problem_type={REGRESSION!r}."
        )
    is_binary, sums = np.isin(matrix, (0, 1)).all(), matrix.sum(axis=1)
    is_distribution = bool((np.abs(sums - 1) < MAX_SUM_ERROR).all())
    if problem_type == MULTI_LABEL or (problem_type is None and not is_distribution and is_binary):
        return EncodedLabels(matrix.astype("float32"), names, MULTI_LABEL)
    if not is_distribution:
        raise ValueError(
            f"The probabilities of an image must sum to 1. Received: a sum of {sums[np.abs(sums - 1).argmax()]:g}. For "
            f"labels that do not exclude each other, set problem_type={MULTI_LABEL!r}."
        )
    if is_binary:
        return EncodedLabels(matrix.argmax(axis=1), names, SINGLE_LABEL)
    return EncodedLabels((matrix / sums[:, None]).astype("float32"), names, SINGLE_LABEL)


def _encode_sets(rows: list[list[Any]], class_names: Sequence[Any] | None, problem_type: str | None) -> EncodedLabels:
    if problem_type == SINGLE_LABEL:
        raise ValueError(f"problem_type={SINGLE_LABEL!r} needs one label per image. Received: {rows[0]}")
    found = [item for row in rows for item in row]
    names = tuple(map(str, class_names or _infer_class_names(found)))
    matrix = np.zeros((len(rows), len(names)), "float32")
    indices = _to_indices(found, names)
    matrix[np.repeat(np.arange(len(rows)), [len(row) for row in rows]), indices] = 1
    return EncodedLabels(matrix, names, MULTI_LABEL)


def _encode_values(labels: list[Any], names: Sequence[Any] | None) -> EncodedLabels:
    try:
        values = np.array([row if isinstance(row, list) else [row] for row in labels], "float32")
    except (ValueError, TypeError) as error:
        raise ValueError(f"A regression needs the same number of values for each image: {error}.") from error
    if not np.isfinite(values).all():
        missing = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(f"A regression needs finite numbers. Received: {labels[missing]} for image {missing}.")
    default = ("value",) if values.shape[1] == 1 else tuple(f"value_{index}" for index in range(values.shape[1]))
    named = tuple(map(str, names or default))
    if len(named) != values.shape[1]:
        raise ValueError(f"class_names must name {values.shape[1]} values. Received: {', '.join(named)}")
    return EncodedLabels(values, named, REGRESSION)


def _encode_indices(labels: list[Any], class_names: Sequence[Any] | None) -> EncodedLabels:
    numbers = [label for label in labels if isinstance(label, float)]
    if fractions := [number for number in numbers if number != np.rint(number)]:
        raise ValueError(
            f"Labels must be whole numbers or names. Received: {fractions[0]}. For other numbers, set "
            f"problem_type={REGRESSION!r}."
        )
    labels = [int(label) if isinstance(label, float) else label for label in labels]
    names = class_names or _infer_class_names(labels)
    return EncodedLabels(_to_indices(labels, tuple(names)), tuple(map(str, names)), SINGLE_LABEL)


def _infer_class_names(labels: list[Any]) -> list[Any]:
    """Returns the classes that occur: all indices from 0, or the names, sorted."""
    if labels and all(isinstance(label, int) for label in labels):
        return [*range(max(labels) + 1)]
    return sorted({*map(str, labels)})


def _to_indices(labels: Iterable[Any], names: tuple[Any, ...]) -> np.ndarray:
    labels = [*labels]
    if labels and all(isinstance(label, int) for label in labels):
        if min(labels) < 0 or max(labels) >= len(names):
            raise ValueError(f"Labels must be 0 to {len(names) - 1}. Received: {min(labels)} to {max(labels)}")
        return np.array(labels, "int64")
    indices = {str(name): index for index, name in enumerate(names)}
    unknown = sorted({str(label) for label in labels} - indices.keys())
    if unknown:
        raise ValueError(f"class_names must name all classes. Missing: {', '.join(unknown[:5])}")
    return np.array([indices[str(label)] for label in labels], "int64")
