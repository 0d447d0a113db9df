"""The command starts sooner: what Keras imports on the chance that it is wanted is left out.

Keras 3.15 tries to import scikit-learn (and with it pandas), matplotlib, Orbax, IPython and the other backends, for
wrappers and plots that the command has no use for. Here they are absent while Keras is imported, and there again
afterwards: what the command itself imports of them works. The processes that an export and a cluster start do so too,
by the variable `CONVNEXT_KERAS_LEAN`. In a user's own program nothing is hidden, unless that variable is 1 there.
"""

import contextlib
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

COMMAND = "convnext-keras"
LEAN = {"CONVNEXT_KERAS_LEAN": "1"}  # in the environment of a process that is to start so
HIDDEN = ("sklearn", "pandas", "matplotlib", "orbax", "IPython", "pydot")
BACKENDS = ("tensorflow", "jax", "torch")


@contextlib.contextmanager
def without(names: set[str]):
    """Packages are not found within it, unless they were imported before."""
    finder = next(one for one in sys.meta_path if isinstance(one, type) and issubclass(one, PathFinder))

    class Absent(finder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname in names else super().find_spec(fullname, path, target)

    place = sys.meta_path.index(finder)
    sys.meta_path[place] = Absent
    try:
        yield
    finally:
        sys.meta_path[place] = finder


def import_keras() -> None:
    """Imports Keras without what is hidden. It asks once whether TensorFlow is there, so it is asked here."""
    backend = os.environ.get("KERAS_BACKEND")  # else a file of Keras' has it
    with without({*HIDDEN, *(BACKENDS if backend else ())} - {backend}):
        import keras

        keras.dtype_policies.serialize(keras.dtype_policies.get("float32"))


if Path(sys.argv[0]).stem == COMMAND or LEAN.items() <= os.environ.items():
    import_keras()
