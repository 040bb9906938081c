"""Grids of runs that take milliseconds: images of 12 pixels, and jobs in this process instead of new ones."""

import contextlib
import time
import traceback

import torch

from cmkd.cli import main
from cmkd.data import ImageData, TensorImages, catalog

CLASSES = 4

GRID = {
    "options": {"data": "squares", "epochs": 2, "batch_size": 16, "validation": 0.25, "cpu": True},
    "teachers": {"big": {"model": "tiny_networks:student", "epochs": 1}},
    "students": ["tiny_networks:student"],
    "methods": {"CE": {}, "KD": {}, "CMKD": {}},
    "seeds": [0, 1],
}
PAIR = "big--tiny_networks-student~942ca60b"


class Poisoned(TensorImages):
    """Images that nobody may look at."""

    def read(self, indices, crops=None):
        raise AssertionError("the test set was opened")

    def to(self, device):
        return self


def squares(*, poisoned=False):
    """96 training images, 32 test images."""
    generator = torch.Generator().manual_seed(5)
    parts = []
    for count, kind in ((96, TensorImages), (32, Poisoned if poisoned else TensorImages)):
        targets = torch.arange(count) % CLASSES
        images = torch.randint(0, 150, (count, 3, 12, 12), generator=generator)
        images = images + 30 * targets.view(-1, 1, 1, 1)
        parts.append(kind(images.to(torch.uint8), targets))
    names = tuple("abcd")
    return ImageData("squares", names, *parts, (0.5,) * 3, (0.25,) * 3, 12, "crop_flip")


def known(monkeypatch, **options):
    """Let `--data squares` be the name of that set; leave out the page of every run, which takes a second."""
    found = {**catalog._openers(), "squares": lambda root: squares(**options)}
    monkeypatch.setattr(catalog, "_openers", lambda: found)
    monkeypatch.setattr("cmkd.report.write_report", lambda file, *_, **__: file)


class InProcess:
    """A runner that runs a task when it is started."""

    def __init__(self, slots=1):
        self.slots = slots
        self.started = []
        self._ended = {}

    def start(self, task):
        self.started.append(task.name)
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            print(f"\n== {time.time()} cmkd")
            try:
                self._ended[task.name] = main(list(task.words))
            except Exception:
                traceback.print_exc()
                self._ended[task.name] = 1

    def ended(self, seconds):
        ended, self._ended = self._ended, {}
        return ended

    def stop(self):
        pass

    def close(self):
        pass
