"""Runs `cmkd` with the given words, kills it at random instants, and at last lets it finish.

    killing.py SEED KILLS SECONDS STATE WORDS...

Every attempt is a process of its own, forked from this one so that it need not import anything: it gets
SIGKILL at most SECONDS after it has begun and STATE exists. Prints how many of the KILLS found it at work.
"""

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from cmkd.cli import main
from cmkd.training import loop, runs  # noqa: F401 - imported once for all attempts

with contextlib.suppress(ImportError):
    import torch.utils.tensorboard  # as every run does where it is installed


def begin(words):
    child = os.fork()
    if child == 0:
        try:
            os._exit(main(words))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)  # an exception must not return into the parent's code
    return child


def kill(words, state, instants, seconds):
    child = begin(words)
    begun = time.monotonic()
    while not state.exists() and time.monotonic() - begun < 60:
        time.sleep(0.01)
    time.sleep(instants.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path.append(str(Path(__file__).parent))
    seed, kills, seconds, state, *words = sys.argv[1:]
    instants = random.Random(int(seed))
    killed = sum(kill(words, Path(state), instants, float(seconds)) for _ in range(int(kills)))
    print("killed", killed)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(begin(words), 0)[1]))
