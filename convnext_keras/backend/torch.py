"""PyTorch: convolution without a copy of its input, and dense layers through oneDNN or MKL.

On CPUs, `torch.nn.functional.linear` multiplies float32 matrices with MKL, which on AMD's processors with AVX-512 takes
twice as long as oneDNN. PyTorch has oneDNN's product, with an activation appended, as an operation of its own compiler
without a gradient; this adds one.

Keras runs some 200 layers in Python for a batch, 20 to 40 ms; `predict_batch` records what they ask of PyTorch, once
for each shape, and repeats that.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import torch
from keras import ops

LINEAR_OP: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
# What tells whether oneDNN multiplies such numbers on this processor: bfloat16 takes AVX-512, float16 more than that.
CAPABILITY_CHECKS = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
# Where it does not, PyTorch's own loops take fifty times as long as float32 and the conversions.
EMULATED_DTYPES = [
    dtype for dtype, name in CAPABILITY_CHECKS.items() if not getattr(torch.ops.mkldnn, name, lambda: False)()
]
# Whether vmap and the like are at work; where PyTorch does not tell, they are taken to be.
is_transformed: Any = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
# Without AVX-512, MKL's product with GELU in its place is faster than oneDNN's; with it, MKL is the slower one on AMD's
# processors.
PREFERS_MKL = torch.backends.cpu.get_cpu_capability() == "AVX2" and torch.backends.mkl.is_available()
# Keras' activation -> name, numbers and algorithm of what the operation appends to the product.
FUSED_ACTIVATIONS = {keras.activations.linear: ("none", [], ""), keras.activations.gelu: ("gelu", [], "none")}


class AllGather(torch.autograd.Function):
    """Gathers the rows `(n, ...)` of all processes to `(N, ...)`; the gradient of a row is the sum over processes."""

    @staticmethod
    def forward(ctx, tensor):
        """Gathers the rows of all processes, which must have equal numbers of rows."""
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *upstreams):
        """Adds up what each process has for the rows of this one."""
        total = upstreams[0].contiguous()
        torch.distributed.all_reduce(total)
        start = torch.distributed.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def world_size() -> int:
    """Returns the number of processes that train together."""
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if is_distributed else 1


def all_gather(tensor, training):
    """Returns the rows of all processes of `torch.distributed`, while they train."""
    return AllGather.apply(tensor) if training and world_size() > 1 else tensor


def check_distribution():
    """Raises ValueError if several processes train together, as Keras' `fit` does not average their gradients."""
    if world_size() > 1:
        raise ValueError(
            f"fit trains in one process, and {world_size()} are connected by torch.distributed. Wrap the model in "
            "torch.nn.parallel.DistributedDataParallel and train in a loop of your own; see docs/guides/distributed.md."
        )


class Linear(torch.autograd.Function):
    """Computes `inputs @ kernel + bias`; the gradients are such matmuls too, so all orders of gradients exist."""

    @staticmethod
    def forward(inputs, kernel, bias):
        """`(..., C)`, `(C, D)`, `(D,)` or None -> `(..., D)`."""
        if torch.compiler.is_compiling():  # `backward`, by a compiler that does not take kernels that are no constants
            return torch.nn.functional.linear(inputs, kernel.T, bias)
        return LINEAR_OP(inputs, kernel.T, bias, *FUSED_ACTIVATIONS[keras.activations.linear])

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keeps what the gradients need."""
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, *upstreams):
        """Returns gradients for inputs, kernel and bias, those that are asked for."""
        (upstream,), (inputs, kernel) = upstreams, ctx.saved_tensors
        needs = ctx.needs_input_grad
        rows = inputs.reshape(-1, inputs.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
        for_inputs = Linear.apply(upstream, kernel.T, None) if needs[0] else None
        for_kernel = Linear.apply(rows[0].T, rows[1], None) if needs[1] else None
        return for_inputs, for_kernel, rows[1].sum(0) if needs[2] else None


def has_fast_matmul(inputs: torch.Tensor, kernel: torch.Tensor) -> bool:
    """Returns whether oneDNN can compute the matmul: not in exported or compiled models."""
    return (
        LINEAR_OP is not None
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and inputs.device.type == kernel.device.type == "cpu"
        and inputs.dtype == kernel.dtype
        and inputs.dtype in (torch.float32, torch.bfloat16)
        and inputs.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not is_transformed()
    )


def compute_in_float32(function, inputs, kernel, bias, option):
    """Returns a function of such tensors where the processor has no instructions for their type, in that type again."""
    wide = [None if tensor is None else tensor.float() for tensor in (inputs, kernel, bias)]
    return function(*wide, option).to(inputs.dtype)


def is_emulated(inputs: torch.Tensor) -> bool:
    """Returns whether this processor would compute in loops; what programs that leave this process may do is theirs."""
    is_here = inputs.device.type == "cpu" and not torch.compiler.is_compiling()
    return is_here and inputs.dtype in EMULATED_DTYPES


def dense(inputs, kernel, bias, activation):
    """Computes `activation(inputs @ kernel + bias)`: `(..., C)`, `(C, D)`, `(D,)` -> `(..., D)`."""
    if is_emulated(inputs):
        return compute_in_float32(dense, inputs, kernel, bias, activation)
    if not has_fast_matmul(inputs, kernel):
        return activation(torch.nn.functional.linear(inputs, kernel.T, bias))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, kernel, bias)):
        return activation(Linear.apply(inputs, kernel, bias))
    if PREFERS_MKL and inputs.dtype == torch.float32:
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs = torch.mm(rows, kernel) if bias is None else torch.addmm(bias, rows, kernel)
        outputs = torch.ops.aten.gelu_(outputs) if activation is keras.activations.gelu else activation(outputs)
        return outputs.reshape(*inputs.shape[:-1], -1)
    if activation in FUSED_ACTIVATIONS:
        return LINEAR_OP(inputs, kernel.T, bias, *FUSED_ACTIVATIONS[activation])
    return activation(LINEAR_OP(inputs, kernel.T, bias, *FUSED_ACTIVATIONS[keras.activations.linear]))


def depthwise(inputs, kernel, bias, dilation_rate: int):
    """Computes a zero-padded depthwise convolution: `(N, H, W, C)`, `(kh, kw, 1, C)`, `(C,)` or None -> `(N, H, W, C)`.

    A view of the input with its channels in front is what PyTorch calls channels last: nothing is copied.
    """
    if is_emulated(inputs):
        return compute_in_float32(depthwise, inputs, kernel, bias, dilation_rate)
    padding = [(size - 1) * dilation_rate // 2 for size in kernel.shape[:2]]
    channels_first = inputs.permute(0, 3, 1, 2)
    if torch.compiler.is_compiling():  # whose sorting of strides fails for a view with unknown height and width
        channels_first = channels_first.contiguous()
    outputs = torch.nn.functional.conv2d(
        channels_first,
        kernel.permute(3, 2, 0, 1),
        bias,
        padding=padding,
        dilation=dilation_rate,
        groups=kernel.shape[-1],
    )
    return outputs.permute(0, 2, 3, 1)


def gradient(function, array):
    """Returns the gradient of a scalar function at an array."""
    tensor: Any = ops.convert_to_tensor(array)
    tensor.requires_grad_()
    (result,) = torch.autograd.grad(function(tensor), tensor)
    return result.cpu().numpy()


MAX_TRACED_SHAPES = 64  # of one model
CALLS_BEFORE_TRACE = 3  # of a shape, before it is recorded
# In a recorded model, a hidden layer above the first size leaves the caches; it is computed by blocks of the second.
# Two dense layers of 25,088 x 96 took 0.65 to 0.8 times as long in blocks (AVX2, AVX-512); smaller ones gained nothing.
MIN_HIDDEN_BYTES, BLOCK_BYTES = 16 * 2**20, 2 * 2**20
MAX_REMEMBERED_SHAPES = 4096  # shapes that are counted; then the count begins anew


class TraceCache:
    """Traces of a model for its current weights."""

    def __init__(self, weights: tuple[int, ...]) -> None:
        self.weights = weights
        self.runs: dict[Any, Callable] = {}
        self.seen: Counter = Counter()


_trace_caches: weakref.WeakKeyDictionary[keras.Model, TraceCache] = weakref.WeakKeyDictionary()


def predict_batch(model, inputs):
    """Returns outputs for `predict`; from the third batch of a shape on by the recorded operations, which are the same.

    They are recorded anew if the model has other weights; with other values in the same weights they go on.
    """
    tensors = keras.tree.flatten(inputs)
    if not _is_traceable(tensors):
        return model(inputs, training=False)
    weights = tuple(id(variable.value) for variable in model.weights)
    record = _trace_caches.get(model)
    if record is None or record.weights != weights:
        record = _trace_caches[model] = TraceCache(weights)
    shape = tuple((tensor.dtype, *tensor.shape) for tensor in tensors)
    if shape in record.runs:
        return record.runs[shape](inputs)
    record.seen[shape] += 1
    if record.seen[shape] < CALLS_BEFORE_TRACE or len(record.runs) == MAX_TRACED_SHAPES:
        if len(record.seen) > MAX_REMEMBERED_SHAPES:
            record.seen.clear()
        return model(inputs, training=False)
    record.runs[shape] = trace(lambda batch: model(batch, training=False), inputs)
    return record.runs[shape](inputs)


def trace(function, inputs):
    """Returns a function's operations on such inputs; the function itself where PyTorch does not record."""
    try:
        from torch.fx.experimental.proxy_tensor import make_fx  # which takes half a second to import
    except ImportError:
        return function
    recorded = make_fx(function)(inputs)
    compute_in_row_blocks(recorded)
    return recorded


def compute_in_row_blocks(recorded) -> None:
    """Replaces pairs of dense layers whose hidden layer leaves the caches by `dense_pair`.

    Args:
        recorded: Operations that `make_fx` recorded; changed in place.
    """
    for node in list(recorded.graph.nodes):
        second, hidden = _read_dense(node), []
        if second is None or second.activation != "none":
            continue
        hidden.append(second.inputs)
        while hidden[-1].target is torch.ops.aten.view.default:
            hidden.append(hidden[-1].args[0])
        first = _read_dense(hidden[-1])
        value = hidden[-1].meta["val"]
        if first is None or first.activation != "gelu" or value.numel() * value.element_size() < MIN_HIDDEN_BYTES:
            continue
        if any(len(part.users) > 1 for part in hidden):  # something else needs the hidden layer
            continue
        with recorded.graph.inserting_before(node):
            arguments = (first.inputs, first.kernel, first.bias, second.kernel, second.bias)
            node.replace_all_uses_with(recorded.graph.call_function(dense_pair, arguments))
        for dead in (node, *hidden, *hidden[-1].all_input_nodes):
            if not dead.users and dead.op == "call_function":
                recorded.graph.erase_node(dead)
    recorded.recompile()


class DenseNode(NamedTuple):
    """Arguments of a recorded dense layer."""

    inputs: Any
    kernel: Any
    bias: Any
    activation: str


def _read_dense(node) -> DenseNode | None:
    """Returns the arguments of the dense layer that ends with an operation, either as oneDNN or as MKL computes it."""
    if node.target is torch.ops.aten.addmm.default:
        bias, inputs, kernel = node.args
        return DenseNode(inputs, kernel, bias, "none")
    if node.target is torch.ops.aten.gelu_.default and (inner := _read_dense(node.args[0])):
        return inner._replace(activation="gelu")
    if LINEAR_OP is not None and node.target is LINEAR_OP.default:
        inputs, transposed, bias, activation, *_ = node.args
        if transposed.target is torch.ops.aten.permute.default:
            return DenseNode(inputs, transposed.args[0], bias, activation)
    return None


def dense_pair(inputs, kernel_1, bias_1, kernel_2, bias_2):
    """Computes a dense layer with GELU and another one by blocks of rows, whose hidden layer stays in the cache.

    Args:
        inputs: `(..., C)`.
        kernel_1: `(C, D)`, with a bias `(D,)`.
        bias_1: `(D,)`.
        kernel_2: `(D, E)`.
        bias_2: `(E,)`.

    Returns:
        `(..., E)`.
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    outputs = rows.new_empty(len(rows), kernel_2.shape[1])
    size = max(1, BLOCK_BYTES // (kernel_1.shape[1] * rows.element_size()))
    for part, result in zip(rows.split(size), outputs.split(size), strict=True):
        hidden = dense(part, kernel_1, bias_1, keras.activations.gelu)
        result.copy_(dense(hidden, kernel_2, bias_2, keras.activations.linear))
    return outputs.reshape(*inputs.shape[:-1], -1)


def _is_traceable(tensors: list[Any]) -> bool:
    return (
        all(isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" for tensor in tensors)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not is_transformed()
    )
