"""The benchmark of training speed times what it says, and its contestants do the same work."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("ranking", "throughput", "written")):
            sys.modules.pop(name)


def test_a_turn_times_its_steps_and_not_the_lead(monkeypatch):
    import throughput_turns

    now = [0.0]
    monkeypatch.setattr(throughput_turns.time, "perf_counter", lambda: now[0])
    asked = [{"lead": 2, "steps": 3, "split": False}, {"lead": 0, "steps": 1, "split": False}]
    commands = io.StringIO("".join(json.dumps(each) + "\n" for each in asked))
    answers = io.StringIO()
    turns = throughput_turns.Turns(commands, answers, torch.device("cpu"))
    # the first step, the lead of the first turn, its steps, the only step of the second turn
    for seconds in (100, 10, 10, 1, 2, 6):
        now[0] += seconds
        turns.step()
    now[0] += 5
    with pytest.raises(throughput_turns.Finished):
        turns.step()
    assert [json.loads(line)["seconds"] for line in answers.getvalue().splitlines()] == [100, 3, 5]


def test_the_clock_charges_the_innermost_phase(monkeypatch):
    import throughput_clock

    now = [0.0]

    def spend(seconds, value=None):
        now[0] += seconds
        return value

    monkeypatch.setattr(throughput_clock.time, "perf_counter", lambda: now[0])
    # set by `start` for the life of a process: put back afterwards
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: spend(16))
    for hook in ("pre", "post"):
        monkeypatch.setattr(
            throughput_clock.optimizers, f"register_optimizer_step_{hook}_hook", lambda _: None
        )
    clock = throughput_clock.Clock(torch.device("cpu"))
    inner = clock.call("student", lambda: spend(4))
    outer = clock.call("loss", lambda: (spend(1), inner(), spend(2)))
    clock.start()
    clock.reset()
    for _ in range(2):
        spend(8)
        outer()
        torch.zeros(1).backward()
        spend(32)
        clock.next_step()
    assert clock.read() == {"data": 16, "loss": 6, "student": 8, "backward": 32, "other": 64}


@pytest.mark.parametrize("peer", ["plain", "timm", "torchdistill"])
def test_the_loops_beside_ours_minimise_the_same_loss(peer):
    from throughput_peers import DistillKL

    from cmkd import KDLoss

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 7, generator=generator)
    target = torch.arange(6)
    ours = KDLoss()
    wanted = ours.task_weight * torch.nn.functional.cross_entropy(student, target) + ours(student, teacher)
    if peer == "plain":
        found = 0.1 * torch.nn.functional.cross_entropy(student, target) + 0.9 * DistillKL()(student, teacher)
    else:
        pytest.importorskip({"timm": "timm.task"}.get(peer, peer))
        found = _loss_of(peer, student, teacher, target)
    torch.testing.assert_close(found, wanted)


def _loss_of(peer, student, teacher, target):
    """Let a peer's own loop run on two networks that answer with given logits, up to its loss."""
    from throughput_peers import timm_task, torchdistill_box

    class Answers(torch.nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = torch.nn.Parameter(logits)

        def forward(self, images):
            return self.logits

    class Caught(Exception):
        pass

    class Work:
        device = torch.device("cpu")
        pair = None
        data = type("Data", (), {"mean": (0.5,) * 3, "std": (0.5,) * 3})
        turns = type("Turns", (), {"clock": type("Clock", (), {"watch": lambda *_: None})})

        def student(self):
            return Answers(student)

        def teacher(self):
            return Answers(teacher)

        def dataset(self):
            return [(torch.zeros(3, 2, 2), int(label)) for label in target]

        def loader_options(self):
            return {"batch_size": 6}

        def loader(self):
            return [(torch.zeros(6, 3, 2, 2), target)]

    caught = []

    def catch(self, *_, **__):
        caught.append(self.detach())
        raise Caught

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", catch)
        patch.setattr("torch.utils.data.RandomSampler", torch.utils.data.SequentialSampler)
        with pytest.raises(Caught):
            {"timm": timm_task, "torchdistill": torchdistill_box}[peer](Work())
    return caught[0]


def test_the_plain_images_are_those_of_the_set_but_for_their_augmentation(tmp_path):
    from throughput_pairs import PAIRS
    from throughput_work import Work

    work = Work(PAIRS["embedded"], tmp_path, tmp_path, tmp_path, torch.device("cpu"), "fp32", 0, None, None)
    dataset, data = work.dataset(), work.data
    image, target = dataset[5]
    assert target == data.train.targets[5]
    assert image.shape == (3, 28, 28)
    dataset.transform.transforms[1].padding = None  # no shift
    dataset.transform.transforms[2].p = 0.0  # no mirror
    pixels = data.train.images[5].expand(3, -1, -1) / 255
    expected = (pixels - data.mean[0]) / data.std[0]
    torch.testing.assert_close(dataset[5][0], expected)


def test_a_speed_is_held_against_the_sum_of_two_limits():
    from throughput_tables import ratio, split

    seconds = {"a": [1.0, 2.0, 9.0], "b": [1.0, 1.0, 1.0], "c": [2.0, 6.0, 2.5]}
    pair = {"contestants": {key: {"seconds": each} for key, each in seconds.items()}}
    assert ratio(pair, ("a", "b"), "c") == 1.0  # of 1, 0.5 and 4
    assert ratio(pair, ("a", "other"), "c") is None
    assert split({"student": 1.0, "backward": 2.0, "data": 0.5})["student"] == 3.0


def test_the_tables_of_the_speeds_come_from_their_numbers():
    from throughput_tables import DOCUMENT, RESULTS, filled, readme

    if list(RESULTS.glob("*.json")):
        assert readme(RESULTS) == (RESULTS / "README.md").read_text(encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    assert filled(text) == text
