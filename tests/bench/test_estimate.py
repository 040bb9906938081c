"""What is said of a grid before and while it runs."""

import io
import json
import logging

import pytest
from rich.console import Console

from cmkd.bench import running
from cmkd.bench.config import BenchConfig
from cmkd.bench.estimate import estimate
from cmkd.bench.progress import Display
from cmkd.bench.rates import in_words
from cmkd.bench.schedule import Schedule, last_error
from cmkd.cli import main
from tests.bench.in_process import GRID, PAIR, InProcess, known
from tests.bench.specs import write_spec

pytestmark = pytest.mark.usefixtures("tiny_networks")

#: 268 numbers, and the running statistics of 4 channels with their count.
WEIGHTS = 268 * 4 + 8 * 4 + 8
PAGE = 2_000_000


@pytest.fixture(autouse=True)
def grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known(monkeypatch)
    monkeypatch.setattr(running, "open_runner", lambda config: InProcess())
    write_spec(tmp_path, {**GRID, "cache": {"views": 2}})


def test_a_dry_run_writes_nothing_and_knows_the_disk(tmp_path):
    found = estimate(BenchConfig(spec="grid.yaml", dry_run=True))
    assert [entry.name for entry in tmp_path.iterdir()] == ["grid.yaml"]
    assert [state for _, state in found.jobs] == ["missing"] * (1 + 1 + 6)
    # Weights, and in the checkpoint weights and momentum; two views of 96 images, 4 classes in float16.
    assert found.disk == 7 * (3 * WEIGHTS + PAGE) + 2 * 96 * 4 * 2
    assert found.seconds > 0
    assert "random images" in found.how
    twice = estimate(BenchConfig(spec="grid.yaml", jobs=2))
    assert 0 < twice.seconds < 10 * found.seconds


def test_all_members_of_an_ensemble_take_time(tmp_path, monkeypatch):
    forward = {"tiny_networks:teacher": 2, "tiny_networks:student": 3}
    monkeypatch.setattr(
        "cmkd.bench.estimate._Costs._seconds",
        lambda self, name, *, training: (10 if training else 1) * forward[name],
    )
    teacher = {"network": list(forward), "weights": "random"}
    grid = {**GRID, "teachers": {"both": teacher}, "methods": {"KD": {}}, "seeds": [0]}
    write_spec(tmp_path, grid)
    # 72 of 96 images in each of two epochs, by the student and by each of its teachers.
    assert estimate(BenchConfig(spec="grid.yaml")).seconds == pytest.approx(2 * 72 * (30 + 2 + 3))
    write_spec(tmp_path, {**grid, "cache": {"views": 4}})
    assert estimate(BenchConfig(spec="grid.yaml")).seconds == pytest.approx(2 * 72 * 30 + 4 * 96 * (2 + 3))


def test_the_time_of_what_has_run_is_the_time_of_what_has_not(tmp_path):
    assert main(["bench", "grid.yaml"]) == 0
    assert estimate(BenchConfig(spec="grid.yaml")).seconds == 0
    seconds = {"CE": 3.0, "KD": 5.0, "CMKD": 7.0}
    for method, each in seconds.items():
        for seed in (0, 1):
            file = tmp_path / f"runs/grid/cells/{PAIR}/{method}/seed{seed}/metrics.jsonl"
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            file.write_text("".join(json.dumps({**row, "seconds": each + seed}) + "\n" for row in rows))
    write_spec(tmp_path, {**GRID, "cache": {"views": 2}, "seeds": [0, 1, 2]})
    found = estimate(BenchConfig(spec="grid.yaml"))
    assert [job.name for job, state in found.jobs if state == "missing"] == [
        f"cells/{PAIR}/{method}/seed2" for method in seconds
    ]
    # Two epochs of each, as long as the mean of its two seeds.
    assert found.seconds == pytest.approx(2 * (3.5 + 5.5 + 7.5))
    assert estimate(BenchConfig(spec="grid.yaml", jobs=3)).seconds == pytest.approx(found.seconds / 3)
    assert "have finished" in found.how


def test_the_command_line(capsys, tmp_path):
    assert main(["bench", "grid.yaml", "--dry_run", "true"]) == 0
    out = capsys.readouterr().out
    assert "8 jobs, 6 of them cells: 0 finished, 0 begun, 8 missing" in out
    assert "nothing was written" in out
    assert main(["bench", "absent.yaml"]) == 2
    assert "absent.yaml cannot be read" in capsys.readouterr().err
    write_spec(
        tmp_path, {**GRID, "methods": {"CE": {}, "wild": {"loss": {"name": "KD"}, "lr": 1e30}}, "seeds": [0]}
    )
    assert main(["bench", "grid.yaml", "--out", "wild"]) == 3
    said = capsys.readouterr()
    assert f"cells/{PAIR}/wild/seed0: " in said.out
    assert f"log: wild/logs/cells/{PAIR}/wild/seed0.log" in said.out
    assert "1 of 2 cells are finished; 1 failed, 0 blocked" in said.out
    assert f"cells/{PAIR}/CE/seed0: finished in " in said.err
    assert f"cells/{PAIR}/wild/seed0: FAILED: " in said.err
    assert "Traceback" not in said.err


def test_what_a_terminal_shows(tmp_path, caplog):
    caplog.set_level(logging.INFO, "cmkd.bench")
    running.bench(BenchConfig(spec="grid.yaml", out="grid"))
    plan, folder = running.open_grid(BenchConfig(spec="grid.yaml", out="grid"))
    first, second = f"cells/{PAIR}/KD/seed1", f"cells/{PAIR}/CMKD/seed1"
    for name in (first, second):
        (tmp_path / "grid" / name / "result.json").unlink()
    (tmp_path / "grid" / first / "metrics.jsonl").write_text('{"epoch": 1}\n')
    schedule = Schedule(plan, folder)
    schedule.begin(plan.jobs[first])
    schedule.fail(plan.jobs[second], "no luck")
    console = Console(file=io.StringIO(), force_terminal=True, width=150, color_system=None)
    display = Display(schedule, 1, console)
    display.console.print(display.drawn())
    shown = console.file.getvalue()
    assert "4/6 cells done, 1 running, 0 jobs waiting, 1 failed, 0 blocked, time left" in shown
    assert f"{first}  epoch 2 of 2" in " ".join(shown.split("\n")).replace("   ", "  ")
    best = max(
        (
            sum(
                json.loads((tmp_path / f"grid/cells/{PAIR}/{method}/seed{seed}/result.json").read_text())[
                    "last_validation"
                ]["accuracy"]
                for seed in seeds
            )
            / len(seeds),
            method,
        )
        for method, seeds in {"CE": (0, 1), "KD": (0,), "CMKD": (0,)}.items()
    )
    assert f"{best[0]:.2%} (validation" in shown


def shown_by(grid, folder):
    """Run a grid; return what a terminal shows of it, with one of its cells at work."""
    write_spec(folder, grid)
    running.bench(BenchConfig(spec="grid.yaml", out="grid"))
    schedule = Schedule(*running.open_grid(BenchConfig(spec="grid.yaml", out="grid")))
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    display = Display(schedule, 1, console)
    schedule.begin(schedule.plan.of("cell")[0])
    display.console.print(display.drawn())
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["KD [no intra]", "KD [/x]", "KD :dog:"])
def test_names_are_shown_as_they_are(tmp_path, name):
    methods = {name: {"loss": {"name": "KD"}}}
    shown = shown_by({**GRID, "methods": methods, "seeds": [0]}, tmp_path)
    assert f"big to tiny_networks:student  {name} " in shown


def test_scores_of_one_part_are_not_compared_with_those_of_another(tmp_path):
    methods = {"CE": {"validation": 0}, "KD": {}}
    shown = shown_by({**GRID, "methods": methods, "seeds": [0]}, tmp_path)
    reached = {}
    for method, part in (("CE", "test"), ("KD", "last_validation")):
        file = tmp_path / f"grid/cells/{PAIR}/{method}/seed0/result.json"
        reached[method] = json.loads(file.read_text())[part]["accuracy"]
    assert f"CE {reached['CE']:.2%} (test, mean of 1)" in shown
    assert f"KD {reached['KD']:.2%} (validation, mean of 1)" in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "unknown"),
        (0, "0 s"),
        (89, "89 s"),
        (600, "10 min"),
        (3600, "60 min"),
        (11_100, "3 h 05 min"),
        (864_000, "10 days"),
    ],
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\n== now cmkd a\nepoch 1\ncmkd: error: no\n", "no"),
        ("\n== now cmkd a\ncmkd: error: first\n\n== now cmkd a\ncmkd: error: second\nbye\n", "second"),
        ("\n== now cmkd a\nTraceback:\n  File x\nRuntimeError: odd\n", "RuntimeError: odd"),
        ("\n== now cmkd a\ncmkd: error: old\n\n== now cmkd a\n", ""),
    ],
)
def test_the_line_that_says_why(tmp_path, text, error):
    (tmp_path / "log").write_text(text)
    assert last_error(tmp_path / "log") == error
    assert last_error(tmp_path / "absent") == ""
    assert last_error(tmp_path / "log/below a file") == ""
