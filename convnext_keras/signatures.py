"""What the constructors of the variants take, stated once for editors, type checkers and `inspect.signature`."""

import inspect
import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from convnext_keras.checkpoints import WeightsSource
from convnext_keras.model import ConvNeXtModel

Weights = str | os.PathLike | WeightsSource | None
InputShape = tuple[int | None, ...] | None
Pooling = Literal["avg", "max", "avgmax", "catavgmax"] | None


class Constructor(Protocol):
    """What the constructors of the variants take; their documentation and `ConvNeXt` say what it means.

    The first nine arguments are those of `keras.applications`' constructors, in the same order. Each variant has
    defaults of its own for `weights` and `name`.
    """

    __name__: str

    def __call__(
        self,
        include_top: bool = True,
        include_preprocessing: bool = True,
        weights: Weights = ...,
        input_tensor: Any = None,
        input_shape: InputShape = None,
        pooling: Pooling = None,
        classes: int = 1000,
        classifier_activation: Any = "softmax",
        name: str = ...,
        *,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = 1e-6,
        output_stride: int | None = None,
        dtype: Any = None,
    ) -> ConvNeXtModel:
        """Builds the model."""
        ...


def signature_with(protocol: type, defaults: Mapping[str, Any]) -> inspect.Signature:
    """The signature of a protocol's `__call__`, with other defaults for some arguments."""
    signature = inspect.signature(protocol.__call__)
    _, *rows = signature.parameters.values()
    return signature.replace(parameters=[row.replace(default=defaults.get(row.name, row.default)) for row in rows])
