"""A process that keeps its memory asks the system for none in the next batch."""

import platform
import subprocess
import sys

import pytest

from convnext_keras import malloc

CODE = f"""
import resource, runpy, sys

if sys.argv[1] == "kept":
    assert runpy.run_path({malloc.__file__!r})["reuse_allocator_memory"]()
for turn in range(4):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 50_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.any_backend
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_reuse_allocator_memory_avoids_page_faults():
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", CODE, word], stderr=subprocess.DEVNULL))
        for word in ("kept", "given back")
    )
    assert kept < 100 < 10_000 < given_back
