"""ConvNeXt and ConvNeXt-CLIP for Keras 3."""

from convnext_keras import fast_import

__version__ = "0.1.0"

if not fast_import.is_command():
    fast_import.select_backend()
    if fast_import.is_fast_import_requested():
        fast_import.import_keras()
    from convnext_keras.api import *  # noqa: F403
    from convnext_keras.api import __all__  # noqa: F401


def __dir__() -> list[str]:
    from convnext_keras import api

    return [*api.__all__, "distributed", "explain", "export", "retrieval", "server", "__version__"]


globals()["__getattr__"] = fast_import.load_attribute  # a `def` here would tell type checkers that every name exists
