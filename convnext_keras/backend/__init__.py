"""Backend-specific implementations of the most expensive operations.

The module of the backend is chosen once, here. These modules are the only ones that use private names of other
libraries; where one of these is absent, a public way gives the same numbers, more slowly.
"""

import importlib

import keras

from convnext_keras.backend import common

MODULES = ("tensorflow", "jax", "torch", "openvino")
_backend = keras.backend.backend()
_chosen = importlib.import_module(f"convnext_keras.backend.{_backend}") if _backend in MODULES else None

# `(inputs, kernel, bias, dilation_rate) -> outputs`: depthwise convolution of stride 1, zero-padded.
depthwise = getattr(_chosen, "depthwise", common.depthwise_native)
# `(inputs, kernel, bias, activation) -> outputs`: a dense layer; None where Keras' own is as good.
dense = getattr(_chosen, "dense", None)
# `(inputs, gamma, beta, epsilon) -> outputs`: layer normalization of the last axis, or None.
layer_norm = getattr(_chosen, "layer_norm", None)
# `model -> (array -> array)`: a model of one input compiled for inference in float32 and any number of rows, or None
# where `predict_on_batch` is that.
compile_model = getattr(_chosen, "compile_model", None)
# `folder -> None`: keeps what the backend compiles in a folder, for the next process.
enable_compilation_cache = getattr(_chosen, "enable_compilation_cache", lambda folder: None)
# `(tensor, training) -> tensor`: the rows of all replicas or processes that train together, with gradients. Under JAX,
# arrays are whole wherever their parts lie.
all_gather = getattr(_chosen, "all_gather", lambda tensor, training: tensor)
# `() -> None`: raises ValueError if `fit` would train replicas or processes apart.
check_distribution = getattr(_chosen, "check_distribution", lambda: None)
# `(function, array) -> array`: the gradient of a function from a tensor to a number; None where there are none.
gradient = getattr(_chosen, "gradient", None)
# `(function, rows, count) -> outputs`: the function of `count` equal parts of the rows, one after another.
map_microbatches = getattr(_chosen, "map_microbatches", common.map_microbatches)
# Whether each shape of random numbers is a program to compile.
random_ops_recompile = _backend == "jax"
# `(model, inputs) -> outputs`: what `predict` does with a batch; None where Keras' own way is as good.
predict_batch = getattr(_chosen, "predict_batch", None)
# `model -> bool`: whether `predict` takes long to start, where `predict_on_batch` gives the same.
has_predict_overhead = getattr(_chosen, "has_predict_overhead", lambda model: False)
