"""The command leaves out what Keras imports on the chance that it is wanted, and finds all of it afterwards."""

import os
import subprocess
import sys

import pytest
from backend import BACKEND

from convnext_keras.starting import BACKENDS, HIDDEN

CODE = """
import sys
sys.argv = ["{program}"]
import convnext_keras
print(*sys.modules)
"""
AFTERWARDS = """
import matplotlib, pandas, sklearn, tensorflow, keras
print(keras.layers.Dense(2).get_config()["units"], tensorflow.__name__)
"""


def printed(program, lean="0", code=""):
    """The modules of a program after its import, and what the code prints."""
    words = [sys.executable, "-c", CODE.format(program=program) + code]
    environment = {**os.environ, "CONVNEXT_KERAS_LEAN": lean}
    return subprocess.check_output(words, env=environment, text=True, stderr=subprocess.DEVNULL).splitlines()


def test_the_command_leaves_out_what_it_has_no_use_for():
    (modules,) = printed("/usr/bin/convnext-keras")
    assert not {*modules.split()} & {*HIDDEN, *BACKENDS} - {BACKEND}


@pytest.mark.any_backend
def test_in_other_programs_nothing_is_hidden():
    (modules,) = printed("notebook")
    assert "sklearn" in modules.split()


@pytest.mark.any_backend
def test_other_programs_may_ask_for_it_and_find_afterwards_what_was_left_out():
    modules, last = printed("notebook", lean="1", code=AFTERWARDS)
    assert "sklearn" not in modules.split()
    assert last == "2 tensorflow"
