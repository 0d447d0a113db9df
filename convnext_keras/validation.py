"""Validation of the arguments of constructors, before anything is built or downloaded.

A module of its own because the checks are about Keras' conventions and not about ConvNeXt.
"""

import difflib
import functools
import numbers
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import keras

P = ParamSpec("P")
T = TypeVar("T")
# Arguments of timm and of Keras 2, and what this library calls them.
OTHER_LIBRARIES = {
    "num_classes": "classes=",
    "pretrained": "weights=",
    "in_chans": "input_shape=(H, W, channels)",
    "features_only": "feature_extractor(model)",
    "model_name": "name=",
    "img_size": "input_shape=(H, W, 3)",
    "global_pool": "pooling=",
    "checkpoint_path": "weights=",
}


def hint_foreign_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a constructor so that the arguments of other libraries raise a TypeError that names ours.

    Example:
        >>> hint_foreign_arguments(lambda **options: options)(num_classes=10)
        Traceback (most recent call last):
        ...
        TypeError: <lambda> has no argument 'num_classes'. Use classes=.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name in OTHER_LIBRARIES:
                raise TypeError(f"{function.__name__} has no argument {name!r}. Use {OTHER_LIBRARIES[name]}.")
        return function(*args, **kwargs)

    return checked


def validate_name(name: Any) -> None:
    """Raises ValueError for a model's name that a backend cannot use for its layers."""
    if not isinstance(name, str) or not name or set(name) & set("./"):
        raise ValueError(f"name must be a text without '.' and '/'. Received: name={name!r}")


def suggestion(given: Any, known: Iterable[str]) -> str:
    """Returns a sentence with the known name that is most like the given one, after a blank; empty if none is like it.

    Example:
        >>> suggestion("convnext_tinny", ["convnext_tiny", "convnext_base"])
        " Did you mean 'convnext_tiny'?"
    """
    close = difflib.get_close_matches(str(given), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def format_choices(words: Iterable[Any]) -> str:
    """Returns words for a sentence.

    Example:
        >>> format_choices([None, "avg", "max"])
        "None, 'avg' or 'max'"
    """
    *others, last = map(repr, words)
    return f"{', '.join(others)} or {last}" if others else last


def validate_constructor_args(
    pooling: Any,
    poolings: Iterable[str],
    classes: Any,
    classifier_activation: Any,
    activations: Iterable[str | None] | None,
    drop_path_rate: float,
) -> None:
    """Raises ValueError for an argument that no model can be built with.

    Args:
        pooling: None or one of `poolings`.
        poolings: The valid ones.
        classes: A positive whole number.
        classifier_activation: Anything that `keras.activations.get` knows, or one of `activations`.
        activations: Those that pretrained weights can be used with; None for any.
        drop_path_rate: 0 or more, below 1.
    """
    if pooling not in (None, *poolings):
        raise ValueError(f"pooling must be {format_choices([None, *poolings])}. Received: pooling={pooling!r}")
    if isinstance(classes, bool) or not isinstance(classes, numbers.Integral) or classes < 1:
        raise ValueError(f"classes must be a positive whole number. Received: classes={classes!r}")
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate must be 0 or more and below 1. Received: drop_path_rate={drop_path_rate!r}")
    given = keras.activations.get(classifier_activation)
    if activations is not None and given not in [keras.activations.get(activation) for activation in activations]:
        raise ValueError(
            f"classifier_activation must be {format_choices(activations)} with pretrained weights. "
            f"Received: classifier_activation={classifier_activation!r}. "
            "Put other activations on top of the logits."
        )


def resolve_output_stride(output_stride: int | None, first: int, full: int) -> int:
    """Returns the stride of the last feature map; None gives the full stride."""
    valid = tuple(stride for stride in (full // 4, full // 2, full) if stride > first) or (full,)
    if output_stride is not None and output_stride not in valid:
        raise ValueError(f"output_stride must be None or one of {valid}. Received: output_stride={output_stride!r}")
    return output_stride or full


def image_shape(size: int | tuple[int, int] | None, channels: int = 3) -> tuple[int | None, ...]:
    """Returns the shape of images of a height and width, or of a square size, in Keras' data format."""
    height, width = size if isinstance(size, tuple) else (size, size)
    last = keras.config.image_data_format() == "channels_last"
    return (height, width, channels) if last else (channels, height, width)


def get_input_tensor(
    input_tensor: Any, input_shape: Any, default_size: int | tuple[int, int] | None, minimum: int, channels: int = 3
) -> Any:
    """Returns the tensor that a model starts from: `input_tensor`, or a new input of `input_shape`.

    Args:
        input_tensor: Output of a Keras layer, or None.
        input_shape: `(H, W, C)` in pixels, `(C, H, W)` if Keras is set to channels first, or None; a height or width of
            None is dynamic.
        default_size: Height and width of a new input if `input_shape` is None, None for any.
        minimum: The smallest height and width that the model can take.
        channels: Number of channels of a new input if `input_shape` is None.

    Raises:
        ValueError: If the two disagree, or the shape cannot be used.
    """
    if input_tensor is not None and not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            "input_tensor must be the output of a Keras layer, such as keras.Input((224, 224, 3)). "
            f"Received: {type(input_tensor).__name__}. Call the finished model on arrays."
        )
    given = None if input_shape is None else _validate_shape(input_shape, "input_shape", minimum)
    if input_tensor is None:
        return keras.Input(given or image_shape(default_size, channels))
    if len(input_tensor.shape) != 4:
        raise ValueError(f"input_tensor must have shape (N, H, W, C). Received: {tuple(input_tensor.shape)}")
    shape = _validate_shape(input_tensor.shape[1:], "input_tensor", minimum)
    if given is not None and any(None not in pair and pair[0] != pair[1] for pair in zip(shape, given, strict=True)):
        raise ValueError(f"input_tensor of shape {shape} disagrees with input_shape={given}. Leave input_shape out.")
    return input_tensor


def _validate_shape(shape: Any, source: str, minimum: int) -> tuple[int | None, ...]:
    order = keras.config.image_data_format()
    names = "(H, W, C)" if order == "channels_last" else "(C, H, W)"
    try:
        shape = tuple(None if length is None else int(length) for length in shape)
    except (TypeError, ValueError):
        shape = (shape,)
    if len(shape) != 3:
        raise ValueError(f"{source} must be {names}, as in (224, 224, 3). Received: {source} of shape {shape}")
    *sizes, channels = shape if order == "channels_last" else (*shape[1:], shape[0])
    if any(size is not None and size < minimum for size in sizes):
        raise ValueError(f"{source} must be at least {minimum} pixels high and wide. Received: {shape}, {names}")
    if channels is None or channels < 1:
        raise ValueError(f"{source} must have a number of channels, {names}, such as 3. Received: {shape}")
    return shape
