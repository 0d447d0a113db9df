"""TensorFlow: its own depthwise operation outside XLA, and dense layers that its graph optimizer can fuse."""

from typing import Any

import tensorflow as tf
from keras import ops

from convnext_keras.backend.common import shifted_depthwise, to_float32, with_bias

try:
    from tensorflow.python.ops import control_flow_util
except ImportError:
    control_flow_util = None


def is_compiled_by_xla() -> bool:
    """Returns whether XLA compiles the current function, and where TensorFlow does not report it, whether it might."""
    asked = getattr(control_flow_util, "GraphOrParentsInXlaContext", lambda graph: False)
    return asked(tf.compat.v1.get_default_graph())


# Strategies whose replicas can gather, gradients too.
GATHERING = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.TPUStrategy)


def all_gather(tensor, training):
    """Returns the rows of all replicas of a `tf.distribute` strategy, in the order of the replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor
    return context.all_gather(tensor, axis=0)


def check_distribution():
    """Raises ValueError if the strategy at work has replicas that cannot gather."""
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1 and not isinstance(strategy, GATHERING):
        raise ValueError(
            f"{type(strategy).__name__} cannot give CLIP's loss over the whole batch: each replica would compare its "
            f"own rows only. Use one of {', '.join(kind.__name__ for kind in GATHERING)}."
        )


def depthwise(inputs, kernel, bias, dilation_rate: int):
    """Computes TensorFlow's depthwise operation, or shifted multiply-adds if XLA compiles for a CPU."""
    accelerated = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU")
    if not accelerated and is_compiled_by_xla():
        return with_bias(shifted_depthwise(inputs, kernel, dilation_rate), bias)
    kernel = ops.transpose(kernel, (0, 1, 3, 2))  # (kh, kw, 1, C) -> (kh, kw, C, 1)
    dtype = inputs.dtype
    if not accelerated:  # The operation is slow in 16 bits on a CPU (tensorflow#41715).
        inputs, kernel = to_float32(inputs), to_float32(kernel)
    options = {"padding": "same", "data_format": "channels_last", "dilation_rate": dilation_rate}
    return with_bias(ops.cast(ops.depthwise_conv(inputs, kernel, **options), dtype), bias)


def dense(inputs, kernel, bias, activation):
    """Computes a dense layer on rows, where TensorFlow's graph optimizer fuses matmul, bias and exact GELU."""
    shape = tf.concat([tf.shape(inputs)[:-1], [kernel.shape[-1]]], 0)
    rows = tf.reshape(inputs, (-1, kernel.shape[0]))
    outputs = tf.reshape(activation(tf.nn.bias_add(tf.matmul(rows, kernel), bias)), shape)
    outputs.set_shape([*inputs.shape[:-1], kernel.shape[-1]])
    return outputs


def gradient(function, array):
    """Returns the gradient of a scalar function at an array."""
    tensor = tf.convert_to_tensor(array)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = function(tensor)
    result: Any = tape.gradient(value, tensor)
    return result.numpy()


def has_predict_overhead(model):
    """Returns True except with replicas: `predict` builds a data pipeline, which takes about 35 ms."""
    return model.distribute_strategy.num_replicas_in_sync == 1
