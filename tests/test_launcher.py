import os
import subprocess
import sys

import pytest

#: Says what of Python's end it gets to see: its exit functions, and the clearing up of modules after them.
ENDS = """
import atexit
from cmkd.launcher import leave

class Witness:
    def __del__(self):
        print("cleared up")

witness = Witness()
atexit.register(print, "exit functions")
leave(3)
"""


@pytest.mark.parametrize(
    ("processes", "said"), [(1, ["exit functions", "cleared up"]), (2, ["exit functions"])]
)
def test_one_of_several_ends_before_python_clears_up(processes, said):
    environment = {**os.environ, "WORLD_SIZE": str(processes)}
    done = subprocess.run(
        [sys.executable, "-c", ENDS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines() == said
