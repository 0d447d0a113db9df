import gc
import importlib
import os
import re
import time
from pathlib import Path

import pytest

# JAX compiles every operation for every shape anew in each process; this lets processes share the results.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Random numbers of each shape are a program of its own too, and this one compiles in half the time.
os.environ.setdefault("JAX_THREEFRY_PARTITIONABLE", "0")

# Compiling is what most tests under JAX and TensorFlow wait for, and small models run fast enough as they are.
# tests/kernels, where the arithmetic is checked, does it again as users have it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

# Less time for every start, here and of the programs that tests run.
os.environ.setdefault("CONVNEXT_KERAS_LEAN", "1")

FILE_MARKS = re.compile(r"^pytestmark = (\[.*?^\]|.*?$)", re.MULTILINE | re.DOTALL)
PLUGINS = ("backends", "serving", "clip_models", "hub_stand_in")
# Maximum CPU time of a unit test. Without a limit by default, because the time depends on the machine and its load.
CPU_SECONDS = float(os.environ.get("CONVNEXT_KERAS_TEST_CPU_SECONDS", "inf"))


def pytest_configure(config):
    """A process that shares its tests out to workers runs none, and need not import Keras."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        importlib.import_module("convnext_keras")  # before anything imports Keras
        for plugin in PLUGINS:
            config.pluginmanager.import_plugin(plugin)


def pytest_ignore_collect(collection_path, config):
    """A file whose tests `-m` deselects is not imported: packages that it needs may be absent.

    Understands `a and not b`; other expressions ignore nothing.
    """
    if collection_path.suffix != ".py" or re.search(r"\bor\b|\(", config.option.markexpr):
        return None
    text = collection_path.read_text(encoding="utf-8")
    marks = FILE_MARKS.search(text)
    for term in filter(None, config.option.markexpr.split(" and ")):
        deselected = term.removeprefix("not ")
        if term == deselected and f"mark.{term}" not in text:
            return True
        if term != deselected and marks and f"mark.{deselected}" in marks[1]:
            return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Fails unit tests that need more than `CPU_SECONDS`."""
    start = time.process_time()
    result = yield
    seconds = time.process_time() - start
    expression = pyfuncitem.config.option.markexpr
    if "not slow" in expression and "cross_backend" not in expression and seconds > CPU_SECONDS:
        pytest.fail(f"used {seconds:.1f} s of CPU time, more than {CPU_SECONDS:.0f} s: mark it as slow", pytrace=False)
    return result


def pytest_collection_finish():
    """The garbage collector leaves alone what imports made: a tenth of the time of tests under PyTorch."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
