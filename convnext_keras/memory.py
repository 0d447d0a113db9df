"""The memory of a process: kept for the next batch in place of given back after each."""

import ctypes
import sys

# Of glibc's `mallopt`, with values that it takes: blocks of this many bytes and more are asked of the system one by
# one, and so much free memory at the end of the heap is kept.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
LARGEST_BLOCK, KEPT = 2**30, 2**31 - 1


def keep_memory() -> bool:
    """Lets this process keep the memory of one batch for the next.

    PyTorch asks the system for each large tensor and gives it back when it is freed, and each page of 4 KB costs a
    fault: a sixth of the time of a batch of 8 by ConvNeXt-Tiny, and a tenth of a training step. Afterwards up to 2 GB
    of freed memory stay with the process. Under TensorFlow and JAX, which keep more themselves, it changes little.

    It is for all of a process, so that only a program itself should ask for it; `convnext-keras` does. It takes Linux
    with glibc.

    Returns:
        Whether it took effect; False on other systems.

    Example:
        >>> keep_memory() in (True, False)
        True
    """
    mallopt = None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {M_MMAP_THRESHOLD: LARGEST_BLOCK, M_TRIM_THRESHOLD: KEPT}
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings.items())
