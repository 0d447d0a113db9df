"""The memory of a process: kept for the next batch in place of given back after each."""

import ctypes
import sys

# Of glibc's `mallopt`: one heap for all threads, of which no block is asked of the system by itself, and whose free
# memory at the end stays.
M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1
SETTINGS = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}


def reuse_allocator_memory() -> bool:
    """Lets this process keep the memory of one batch for the next.

    PyTorch and JAX ask the system for each large tensor and give it back when it is freed, and each page of 4 KB costs
    a fault: up to a tenth of the time of a batch of 8 by ConvNeXt-Tiny under PyTorch, a fifth of a step under JAX
    (docs/benchmarks.md). Afterwards a process holds on to the most that it ever needed. TensorFlow gains little.

    It is for all of a process, so that only a program itself should ask for it, before its first model; the command
    `convnext-keras` does. It takes Linux with glibc.

    Returns:
        Whether it took effect; False on other systems.

    Example:
        >>> reuse_allocator_memory() in (True, False)
        True
    """
    mallopt = None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in SETTINGS.items())
