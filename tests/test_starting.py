"""The command leaves out what Keras imports on the chance that it is wanted, and finds all of it afterwards."""

import subprocess
import sys

import pytest
from conftest import BACKEND

from convnext_keras.starting import BACKENDS, HIDDEN

CODE = """
import sys
sys.argv = ["/usr/bin/convnext-keras"] if {as_command} else ["notebook"]
import convnext_keras
print(*sys.modules)
"""
AFTERWARDS = """
import matplotlib, pandas, sklearn, tensorflow, keras
print(keras.layers.Dense(2).get_config()["units"], tensorflow.__name__)
"""


def printed(as_command, code):
    words = [sys.executable, "-c", CODE.format(as_command=as_command) + code]
    return subprocess.check_output(words, text=True, stderr=subprocess.DEVNULL).splitlines()


def test_the_command_leaves_out_what_it_has_no_use_for():
    modules, last = printed(True, AFTERWARDS)
    assert not {*modules.split()} & {*HIDDEN, *BACKENDS} - {BACKEND}
    assert last == "2 tensorflow"


@pytest.mark.any_backend
def test_in_other_programs_nothing_is_hidden():
    (modules,) = printed(False, "")
    assert "sklearn" in modules.split()
