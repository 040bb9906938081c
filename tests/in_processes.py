"""What one of several processes does that a test has started: the runs that its argument lists, in turn.

A run is `{"options": {...}, "across_batch": ..., "stop": [process, step], "keep": true, "backend": ...}`.
With `stop`, a process gets SIGINT after a step, and all of them leave; a further run with the same options
goes on. With `keep`, each process writes what it began and ended with beside the run folder. With `backend`,
that compiles in the place of Inductor, which takes longer.
"""

import copy
import functools
import json
import signal
import sys
from pathlib import Path
from unittest import mock

import torch

from cmkd.errors import Interrupted
from cmkd.launcher import leave, number
from cmkd.losses import CMKDLoss
from cmkd.training import DistillConfig, distill
from cmkd.training import loop as loop_module

original = loop_module.Progress.step


class Kept(loop_module.Trained):
    """Remembers how it began."""

    last = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        Kept.last = self
        self.before = copy.deepcopy(self.step.state_dict())

    def said(self):
        learns = [name for name, each in self.step.named_parameters() if each.requires_grad]
        return {"before": self.before, "now": self.step.state_dict(), "learns": learns}


def run(options, *, across_batch=None, stop=None, keep=False, backend=None):
    if backend is not None:
        compiled = functools.partial(torch.compile, backend=backend)
        with mock.patch.object(torch, "compile", lambda step, mode: compiled(step)):
            return run(options)
    if keep:
        with mock.patch.object(loop_module, "Trained", Kept):
            run(options)
        return torch.save(Kept.last.said(), f"{options['out']}.{number()}.pt")
    if across_batch is not None:
        with mock.patch.object(CMKDLoss, "across_batch", across_batch):
            return run(options)
    if stop is None:
        return distill(DistillConfig(**options), progress=False)
    left = [stop[1]]

    def step(self, epoch, batch, meters):
        left[0] -= 1
        if left[0] == 0 and number() == stop[0]:
            signal.raise_signal(signal.SIGINT)
        original(self, epoch, batch, meters)

    loop_module.Progress.step = step
    try:
        distill(DistillConfig(**options), progress=False)
    except Interrupted:
        return None
    finally:
        loop_module.Progress.step = original
    raise AssertionError("the run was not interrupted")


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    sys.path.append(str(Path(__file__).parent))
    for each in json.loads(sys.argv[1]):
        run(**each)
    leave(0)
