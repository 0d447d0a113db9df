"""Start of the package: the choice of the Keras backend, and an import of Keras without unused packages.

Keras 3.15 tries to import scikit-learn (and pandas), matplotlib, Orbax, IPython and the other backends for wrappers and
plots. The command `convnext-keras` does not use them, so it hides them while it imports Keras; afterwards they can be
imported as usual. This saves a third of the time of `classify` (docs/benchmarks.md). Processes that exports and
clusters start do the same through the environment variable `CONVNEXT_KERAS_LEAN`. Other programs import Keras unchanged
unless they set that variable to 1.
"""

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

COMMAND = "convnext-keras"
FAST_IMPORT_ENV = {"CONVNEXT_KERAS_LEAN": "1"}  # environment of a process that imports Keras without unused packages
UNUSED_PACKAGES = ("sklearn", "pandas", "matplotlib", "orbax", "IPython", "pydot")
BACKENDS = ("tensorflow", "jax", "torch", "openvino")  # the first installed one is the default
KERAS_DEFAULT = "tensorflow"  # which Keras also writes into a new keras.json, installed or not


def is_command() -> bool:
    """Returns whether this process runs the command `convnext-keras`."""
    return Path(sys.argv[0] if sys.argv else "").stem == COMMAND


def is_fast_import_requested() -> bool:
    """Returns whether the environment asks for an import of Keras without unused packages."""
    return FAST_IMPORT_ENV.items() <= os.environ.items()


def load_attribute(name: str) -> Any:
    """Imports submodules of the package at their first use, and for the command the public names too.

    The command answers `--help` without Keras in this way.
    """
    package = __name__.partition(".")[0]
    if not name.startswith("__"):
        if importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        if is_command():
            return getattr(importlib.import_module(f"{package}.api"), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported, without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # imported by hand, without a spec
        return package in sys.modules
    except ImportError:  # a finder that forbids the package
        return False
    return spec is not None and spec.origin is not None  # a folder that an uninstaller left has no origin


def select_backend() -> str:
    """Sets `KERAS_BACKEND` to an installed backend, unless the user chose one.

    The user chooses by `KERAS_BACKEND`, by a `keras.json`, or by importing Keras first. Without a choice, the first
    installed backend of TensorFlow, JAX, PyTorch and OpenVINO is used.

    Returns:
        The name of the backend, such as `"jax"`.

    Raises:
        ImportError: If the chosen backend is not installed, or none is.
    """
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    installed = [name for name in BACKENDS if is_installed(name)]
    named, source = _named_backend()
    if named in installed or (named and named not in BACKENDS):  # Keras reports unknown names
        return named
    if (named and source == "KERAS_BACKEND") or named not in (None, KERAS_DEFAULT):
        others = f", or change {source} to an installed backend ({', '.join(installed)})" if installed else ""
        raise ImportError(
            f"{source} selects {named}, but {named} is not installed. "
            f"Install it with: pip install 'convnext-keras[{named}]'{others}."
        )
    if not installed:
        raise ImportError(
            "No Keras backend is installed. Install one of tensorflow, jax, torch and openvino, for example: "
            "pip install 'convnext-keras[jax]'"
        )
    os.environ["KERAS_BACKEND"] = installed[0]
    if is_command() and len(installed) > 1 and installed[0] != KERAS_DEFAULT:
        others = ", ".join(installed[1:])
        sys.stderr.write(f"{COMMAND}: KERAS_BACKEND is not set; using {installed[0]} (also installed: {others})\n")
    return installed[0]


def _named_backend() -> tuple[str | None, str]:
    """Returns the backend that the user named, None without one, and where."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
    config = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("backend"), str(config)
    except (OSError, ValueError, AttributeError):  # Keras ignores a damaged file too
        return None, str(config)


@contextlib.contextmanager
def hide_packages(names: set[str]) -> Iterator[None]:
    """Hides packages from the import system inside the context, except those already imported."""
    finder = next(one for one in sys.meta_path if isinstance(one, type) and issubclass(one, PathFinder))

    class Absent(finder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname in names else super().find_spec(fullname, path, target)

    position = sys.meta_path.index(finder)
    sys.meta_path[position] = Absent
    try:
        yield
    finally:
        sys.meta_path[position] = finder


def import_keras() -> None:
    """Imports Keras without the packages of `UNUSED_PACKAGES` and without backends that are not selected."""
    if "keras" in sys.modules:
        return
    backend = select_backend()
    with hide_packages({*UNUSED_PACKAGES, *BACKENDS} - {backend, "openvino"}):
        import keras

        # Keras looks for TensorFlow once, here.
        keras.dtype_policies.serialize(keras.dtype_policies.get("float32"))
