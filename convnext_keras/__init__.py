"""ConvNeXt and ConvNeXt-CLIP for Keras 3."""

from convnext_keras import starting

__version__ = "0.1.0"

if not starting.is_command():
    starting.select_backend()
    if starting.is_lean():
        starting.import_keras()
    from convnext_keras.api import *  # noqa: F403
    from convnext_keras.api import __all__  # noqa: F401

globals()["__getattr__"] = starting.load_attribute  # a `def` here would tell type checkers that every name exists
