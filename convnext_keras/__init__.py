"""ConvNeXt and ConvNeXt-CLIP for Keras 3."""

import importlib.util
from typing import Any

from convnext_keras import starting

__version__ = "0.1.0"

if not starting.is_command():
    starting.select_backend()
    if starting.is_lean():
        starting.import_keras()
    from convnext_keras.api import *  # noqa: F403
    from convnext_keras.api import __all__  # noqa: F401


def __getattr__(name: str) -> Any:
    """Imports modules and public names at their first use: the command answers `--help` without Keras."""
    if name.startswith("__") or not starting.is_command():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(f"{__name__}.api"), name)
