"""Waiting in tests: a timeout only ends a hang, and is far above what a busy machine needs."""

import os
import time

TIMEOUT = float(os.environ.get("CONVNEXT_KERAS_TEST_TIMEOUT", "900"))  # seconds


def wait_until(condition):
    """Returns the first true value of `condition()`."""
    end = time.monotonic() + TIMEOUT
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"Waited for {TIMEOUT:g} s (CONVNEXT_KERAS_TEST_TIMEOUT).")
        time.sleep(0.02)
    return value
