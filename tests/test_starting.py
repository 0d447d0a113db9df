"""The command leaves out what Keras imports on the chance that it is wanted, and finds all of it afterwards."""

import subprocess
import sys

from conftest import BACKEND

from convnext_keras.starting import BACKENDS, HIDDEN

CODE = """
import sys
sys.argv = ["/usr/bin/convnext-keras"] if {as_command} else ["notebook"]
import convnext_keras
print(*sys.modules)
import matplotlib, pandas, sklearn, tensorflow, keras
print(keras.layers.Dense(2).get_config()["units"], tensorflow.__name__)
"""


def brought(as_command):
    code = [sys.executable, "-c", CODE.format(as_command=as_command)]
    modules, last = subprocess.check_output(code, text=True, stderr=subprocess.DEVNULL).splitlines()
    assert last == "2 tensorflow"
    return {*modules.split()}


def test_the_command_leaves_out_what_it_has_no_use_for():
    assert not brought(True) & {*HIDDEN, *BACKENDS} - {BACKEND}
    assert "sklearn" in brought(False)  # in other programs nothing is hidden
