"""The backend under test: what it cannot do, numbers of its tensors and its models. A plugin of pytest."""

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
needs_training = pytest.mark.skipif(BACKEND == "openvino", reason="OpenVINO only infers")


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


def randomize(model, seed=1):
    """Gives every weight a value far from its initial one, so that a misplaced or ignored one shows."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name == "kernel":
            values = random.normal(0, max(1, np.prod(weight.shape[:-1])) ** -0.5, weight.shape)
        elif weight.name in ("bias", "beta"):
            values = random.normal(0, 0.3, weight.shape)
        elif weight.name in ("gamma", "scale"):
            values = random.normal(1, 0.3, weight.shape)
        elif weight.name == "moving_mean":
            values = random.normal(0, 0.5, weight.shape)
        elif weight.name == "moving_variance":
            values = random.uniform(0.3, 3, weight.shape)
        else:
            continue  # The state of a random generator.
        weight.assign(values.astype("float32"))
    return model
