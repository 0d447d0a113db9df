import gc
import os
from pathlib import Path

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

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
pytest_plugins = ["serving", "clip_models", "hub_stand_in"]
needs_training = pytest.mark.skipif(BACKEND == "openvino", reason="OpenVINO only infers")


def pytest_collection_finish():
    """The garbage collector leaves alone what imports made: a tenth of the time of tests under PyTorch."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path_factory):
    """No test sees another's layer names, policy or cache, or the network."""
    monkeypatch.setenv("CONVNEXT_KERAS_OFFLINE", "1")
    monkeypatch.setenv("CONVNEXT_KERAS_CACHE", str(tmp_path_factory.mktemp("cache")))
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")


def to_numpy(tensor) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def outputs(model, inputs) -> np.ndarray:
    """A direct call: OpenVINO's `predict` computes in bfloat16 on some processors, its call in float32."""
    return to_numpy(model(inputs))


def randomise(model, seed=1):
    """Gives every weight a value far from its initial one, so that a misplaced or ignored one shows."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name == "kernel":
            values = random.normal(0, max(1, np.prod(weight.shape[:-1])) ** -0.5, weight.shape)
        elif weight.name in ("bias", "beta"):
            values = random.normal(0, 0.3, weight.shape)
        elif weight.name in ("gamma", "scale"):
            values = random.normal(1, 0.3, weight.shape)
        else:
            continue  # The state of a random generator.
        weight.assign(values.astype("float32"))
    return model
