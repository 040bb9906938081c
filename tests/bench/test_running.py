"""Grids at work: what runs after what, on which images, and what becomes of failures."""

import copy
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import yaml

from cmkd.bench import running
from cmkd.bench.config import BenchConfig
from cmkd.bench.estimate import estimate
from cmkd.bench.reporting.results import read_grid
from cmkd.bench.reporting.tuning import tuning
from cmkd.data.loader import Loader
from cmkd.errors import InputError, Interrupted
from cmkd.models import read_state_dict
from tests.bench.in_process import GRID, PAIR, InProcess, known
from tests.bench.specs import write_spec

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Run a grid in an empty folder; return what became of it and the names of the jobs that were started."""
    monkeypatch.chdir(tmp_path)
    known(monkeypatch)

    def call(grid=GRID, **options):
        runner = InProcess()
        monkeypatch.setattr(running, "open_runner", lambda config: runner)
        write_spec(tmp_path, grid)
        call.runner = runner
        outcome = running.bench(BenchConfig(spec="grid.yaml", out="grid", **options))
        return outcome, runner.started

    return call


def with_(**changes):
    return {**copy.deepcopy(GRID), **changes}


def read(file):
    return json.loads(file.read_text())


def cell(method, seed):
    return f"cells/{PAIR}/{method}/seed{seed}"


def test_a_grid_from_its_file_to_its_cells(bench, tmp_path):
    grid = with_(cache={"views": 2})
    outcome, started = bench(grid)
    assert (outcome.finished, outcome.cells, outcome.failures) == (6, 6, {})
    assert started == [
        "teachers/big",
        "caches/big",
        *(cell(method, seed) for seed in (0, 1) for method in ("CE", "KD", "CMKD")),
    ]
    root = tmp_path / "grid"
    written = read(root / "grid.json")
    for each in written["cells"]:
        folder = root / each["folder"]
        assert read(folder / "result.json")["test"]["accuracy"] >= 0
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (config["seed"], config["student"]) == (each["seed"], "tiny_networks:student")
        assert config["loss"]["name"] == each["method"]
        assert (config["cache"], config["views"], config["augment_seed"]) == ("grid/caches/big", 2, 0)
        assert (root / f"logs/{each['name']}.log").stat().st_size > 0
    assert read(root / "failures.json") == {}
    # What is kept is the file of the same grid, and what is finished stays as it is.
    (tmp_path / "grid.yaml").write_text((root / "spec.yaml").read_text())
    runner = InProcess()
    running.bench(BenchConfig(spec="grid.yaml", out="grid"))
    assert runner.started == []


def test_the_job_of_a_cell_repeats_it(bench, tmp_path):
    from cmkd.cli import main

    bench(with_(methods={"KD": {}}, seeds=[3]))
    kept = read_state_dict(tmp_path / "grid" / cell("KD", 3) / "student.safetensors")
    job = tmp_path / f"grid/jobs/{cell('KD', 3)}.yaml"
    assert main(["distill", "--config", str(job), "--out", "again"]) == 0
    again = read_state_dict(tmp_path / "again/student.safetensors")
    assert all(torch.equal(kept[key], again[key]) for key in kept)


def test_all_methods_see_the_same_images_in_the_same_order(bench, monkeypatch):
    """And the same pixels of them, also a method on features, which has no use for the cache."""
    seen, of_run = {}, []
    epoch = Loader.epoch

    def recorded(self, number, start=0):
        for batch in epoch(self, number, start):
            if self.shuffle:
                of_run.append((number, batch.indices.tolist(), float(batch.images.double().sum())))
            yield batch

    monkeypatch.setattr(Loader, "epoch", recorded)
    grid = with_(cache={"views": 2})
    grid["teachers"] = {"big": {"network": "tiny_networks:staged_teacher", "weights": "random"}}
    grid["students"] = ["tiny_networks:staged"]
    grid["methods"]["AT"] = {"loss": {"name": "KD"}, "with": [{"name": "AT"}]}
    monkeypatch.setattr(
        InProcess,
        "start",
        lambda self, task, start=InProcess.start: (
            of_run.clear(),
            start(self, task),
            seen.update({task.name: list(of_run)}),
        ),
    )
    outcome, _ = bench(grid)
    assert outcome.failures == {}
    by_seed = {0: [], 1: []}
    for name, batches in seen.items():
        if name.startswith("cells/"):
            by_seed[int(name[-1])].append(batches)
    for runs in by_seed.values():
        assert len(runs) == 4
        # 72 of 96 images are trained on, in 4 whole batches of 16, twice. A method on features tries its
        # first batch before it trains.
        plain = [run[-8:] for run in runs]
        assert all(run == plain[0] for run in plain)
        assert len({index for _, indices, _ in plain[0] for index in indices}) > 60
    assert by_seed[0][0] != by_seed[1][0]


TUNING = {
    "seeds": [100, 101],
    "options": {"epochs": 1},
    "trials": {
        "KD": [{"loss": {"alpha": 0.5}}, {"lr": 1e-8}],
        "CMKD": [{"lr": 1e-8}, {"loss": {"alpha": 4.0}}],
    },
}


def test_tuning_never_reads_the_test_set(bench, tmp_path, monkeypatch):
    known(monkeypatch, poisoned=True)
    grid = with_(tuning=TUNING, seeds=[0])
    grid["teachers"] = {"big": {"network": "tiny_networks:teacher", "weights": "random"}}
    outcome, _ = bench(grid)
    root = tmp_path / "grid"
    trials = read(root / "grid.json")["trials"]
    assert len(trials) == 2 * 2 * 2  # methods, trials, seeds
    for trial in trials:
        result = read(root / trial["folder"] / "result.json")
        assert "test" not in result
        assert result["last_validation"]["accuracy"] >= 0
        rows = (root / trial["folder"] / "metrics.jsonl").read_text().splitlines()
        assert all("test" not in json.loads(row) for row in rows)
        assert yaml.safe_load((root / trial["folder"] / "config.yaml").read_text())["test"] == "never"
    # The poison works: cells look at the test set at their end.
    assert set(outcome.failures) == {cell(method, 0) for method in ("CE", "KD", "CMKD")}
    assert "the test set was opened" in outcome.failures[cell("KD", 0)]["error"]
    assert outcome.failures[cell("KD", 0)]["status"] == 1


def test_the_better_trial_is_chosen_and_used(bench, tmp_path):
    grid = with_(tuning=TUNING, seeds=[0])
    outcome, started = bench(grid)
    assert outcome.failures == {}
    root = tmp_path / "grid"
    tuned = read(root / "tuned.json")
    assert tuned["part"] == "validation"
    assert tuned["pair"] == {"teacher": "big", "student": "tiny_networks:student"}
    for method, each in tuned["methods"].items():
        for trial in each["trials"]:
            by_hand = [
                read(root / f"tuning/{PAIR}/{method}/trial{trial['trial']}-seed{seed}/result.json")
                for seed in (100, 101)
            ]
            mean = sum(result["last_validation"]["accuracy"] for result in by_hand) / 2
            assert trial["accuracy"] == pytest.approx(mean)
        accuracies = [trial["accuracy"] for trial in each["trials"]]
        assert accuracies[each["chosen"]] == max(accuracies)
        config = yaml.safe_load((root / cell(method, 0) / "config.yaml").read_text())
        chosen = each["options"]
        assert config["lr"] == pytest.approx(chosen.get("lr", 0.1))
        assert chosen.get("loss", {}).items() <= config["loss"].items()
        assert config["epochs"] == 2
    # Cells of what is not tuned wait for nobody.
    assert started.index(cell("CE", 0)) < len(started)
    of_cells = {each["name"]: each["options"] for each in read(root / "grid.json")["cells"]}
    assert of_cells[cell("KD", 0)].get("lr", 0.1) == tuned["methods"]["KD"]["options"].get("lr", 0.1)


def test_a_failing_cell_is_shown_and_the_others_finish(bench, tmp_path):
    grid = with_(seeds=[0])
    grid["methods"]["wild"] = {"loss": {"name": "KD"}, "lr": 1e30}
    outcome, _ = bench(grid)
    assert (outcome.finished, outcome.cells) == (3, 4)
    (name,) = outcome.failures
    assert name == cell("wild", 0)
    failure = read(tmp_path / "grid/failures.json")[name]
    assert failure["status"] == 2
    assert "lower" in failure["error"]
    assert failure["attempts"] == 1
    assert (tmp_path / "grid" / failure["log"]).read_text().count("cmkd: error") == 1
    # The next call tries it again, and nothing else.
    outcome, started = bench(grid)
    assert started == [name]
    assert outcome.failures[name]["attempts"] == 2
    # A remedy that makes another run of it is refused while the old one is there.
    grid["methods"]["wild"]["lr"] = 0.1
    with pytest.raises(InputError, match=r"wild/seed0 holds a run.*lr: there 1e\+30, now 0\.1"):
        bench(grid)


def test_what_needs_a_failed_job_is_blocked(bench, tmp_path):
    grid = with_(cache={"views": 1}, seeds=[0])
    grid["teachers"]["broken"] = {"model": "tiny_networks:broken"}
    outcome, started = bench(grid)
    assert (outcome.finished, outcome.cells) == (3, 6)
    assert "teachers/broken" in started
    assert "caches/broken" not in started
    blocked = {name: each for name, each in outcome.failures.items() if name != "teachers/broken"}
    assert len(blocked) == 4  # the cache and the three cells
    assert {each["blocked_by"] for each in blocked.values()} == {"teachers/broken"}
    assert {each["status"] for each in blocked.values()} == {None}
    assert "tiny_networks:broken" in outcome.failures["teachers/broken"]["error"]


def test_a_file_that_grew_adds_cells_and_one_that_changed_is_refused(bench, tmp_path):
    bench(with_(seeds=[0]))
    grown = with_(seeds=[0, 7])
    outcome, started = bench(grown)
    assert started == [cell(method, 7) for method in ("CE", "KD", "CMKD")]
    assert outcome.finished == 6
    grown["options"]["epochs"] = 3
    before = (tmp_path / "grid/grid.json").read_bytes()
    with pytest.raises(InputError, match=r"CE/seed0 holds a run.*epochs: there 2, now 3"):
        bench(grown)
    assert (tmp_path / "grid/grid.json").read_bytes() == before
    grown["options"]["epochs"] = 2
    grown["methods"]["KD"]["loss"] = {"temperature": 9}
    with pytest.raises(InputError, match=r"KD/seed0.*temperature"):
        bench(grown)


def test_trials_of_other_options_are_refused_before_anything_is_said_of_them(bench, tmp_path):
    grid = with_(seeds=[0], methods={"KD": {}})
    grid["tuning"] = {"options": {"epochs": 1}, "trials": {"KD": [{"lr": 0.1}]}}
    bench(grid)
    before = (tmp_path / "grid/tuned.json").read_bytes()
    grid["tuning"]["trials"]["KD"] = [{"lr": 0.2}]
    with pytest.raises(InputError, match=r"trial0-seed100 holds a run.*lr: there 0\.1, now 0\.2"):
        bench(grid)
    assert (tmp_path / "grid/tuned.json").read_bytes() == before


def test_a_finished_cell_does_not_stand_for_options_that_added_trials_chose(bench, tmp_path):
    grid = with_(seeds=[0], methods={"CE": {}, "KD": {}})
    grid["tuning"] = {"options": {"epochs": 1}, "trials": {"KD": [{"lr": 1e-8}]}}
    bench(grid)
    grid["tuning"] = {"options": {"epochs": 1}, "trials": {"KD": [{"lr": 1e-8}, {"lr": 0.1, "epochs": 20}]}}
    outcome, _ = bench(grid)
    chosen = read(tmp_path / "grid/tuned.json")["methods"]["KD"]["options"]
    assert chosen == {"lr": 0.1, "epochs": 20}
    assert outcome.finished == 1
    assert "lr: there 1e-08, now 0.1" in outcome.failures[cell("KD", 0)]["error"]
    states = {each.method: each.state for each in read_grid(tmp_path / "grid").cells}
    assert states == {"CE": "finished", "KD": "failed"}  # its number is not that of the options beside it
    with pytest.raises(InputError, match=r"KD/seed0 holds a run.*lr: there 1e-08, now 0\.1"):
        bench(grid)


def test_what_was_chosen_is_undecided_again_when_trials_are_added(bench, tmp_path, monkeypatch):
    grid = with_(seeds=[0], methods={"KD": {}})
    grid["tuning"] = {"options": {"epochs": 1}, "trials": {"KD": [{"lr": 0.1}]}}
    bench(grid)

    def stopped(schedule, runner):
        raise Interrupted

    monkeypatch.setattr(running, "run", stopped)
    grid["tuning"]["trials"]["KD"] = [{"lr": 0.1}, {"lr": 0.2}]
    with pytest.raises(Interrupted):
        bench(grid)
    assert read(tmp_path / "grid/tuned.json")["methods"] == {}
    assert "KD: 2 trials, not all finished" in tuning(read_grid(tmp_path / "grid"))


def test_a_grid_that_is_refused_leaves_what_was_chosen(bench, tmp_path):
    grid = with_(seeds=[0], methods={"CE": {}, "KD": {}})
    grid["tuning"] = {"options": {"epochs": 1}, "trials": {"KD": [{"lr": 0.1}]}}
    bench(grid)
    before = (tmp_path / "grid/tuned.json").read_bytes()
    grid["tuning"]["trials"]["KD"] = [{"lr": 0.1}, {"lr": 0.2}]
    grid["methods"]["CE"] = {"lr": 0.3}
    with pytest.raises(InputError, match=r"CE/seed0 holds a run.*lr: there 0\.1, now 0\.3"):
        bench(grid)
    assert (tmp_path / "grid/tuned.json").read_bytes() == before


def test_another_cache_is_no_cache_of_the_grid(bench, tmp_path):
    grid = with_(seeds=[0], methods={"KD": {}}, cache={"views": 2})
    bench(grid)
    for views in (1, 3):
        with pytest.raises(InputError, match=rf"KD/seed0 holds a run.*views: there 2, now {views}"):
            bench({**grid, "cache": {"views": views}})
    with pytest.raises(InputError, match=r"caches/big holds logits in float16, the grid's file says float32"):
        bench({**grid, "cache": {"views": 2, "dtype": "float32"}})


def test_fewer_views_than_the_cache_has_are_those_of_the_file(bench, tmp_path):
    grid = with_(seeds=[0], methods={"KD": {}}, cache={"views": 2})
    bench(grid)
    shutil.rmtree(tmp_path / "grid/cells")
    outcome, started = bench({**grid, "cache": {"views": 1}})
    assert (outcome.finished, started) == (1, [cell("KD", 0)])
    assert yaml.safe_load((tmp_path / "grid" / cell("KD", 0) / "config.yaml").read_text())["views"] == 1


@pytest.mark.parametrize("place", ["jobs", "logs"])
def test_jobs_that_cannot_be_written_down_fail(bench, tmp_path, place):
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid/spec.yaml").write_text("of an earlier call")
    (tmp_path / f"grid/{place}").write_text("where a folder should be")
    outcome, _ = bench(with_(seeds=[0], methods={"CE": {}}))
    assert outcome.finished == 0
    assert set(outcome.failures) == {"teachers/big", cell("CE", 0)}
    assert place in outcome.failures["teachers/big"]["error"]


def test_a_grid_that_was_moved_goes_on(bench, tmp_path):
    grid = with_(seeds=[0], cache={"views": 1})
    bench(grid)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "grid").rename(tmp_path / "elsewhere/grid")
    write_spec(tmp_path, {**grid, "seeds": [0, 7]})
    config = BenchConfig(spec="grid.yaml", out=str(tmp_path / "elsewhere/grid"))
    bench.runner.started.clear()
    outcome = running.bench(config)
    assert bench.runner.started == [cell(method, 7) for method in ("CE", "KD", "CMKD")]
    assert (outcome.finished, outcome.failures) == (6, {})
    # A teacher that is not the grid's own is another one.
    shutil.copytree(tmp_path / "elsewhere/grid/teachers/big", tmp_path / "teachers/big")
    grid["teachers"] = {"big": {"run": "teachers/big"}}
    write_spec(tmp_path, grid)
    with pytest.raises(InputError, match="teacher: there 'grid/teachers/big', now"):
        running.bench(config)


def test_teachers_and_caches_that_nothing_needs_any_more_are_not_made_again(bench, tmp_path):
    grid = with_(seeds=[0], methods={"CE": {}}, cache={"views": 1})
    bench(grid)
    shutil.rmtree(tmp_path / "grid/teachers")
    shutil.rmtree(tmp_path / "grid/caches")
    assert estimate(BenchConfig(spec="grid.yaml", out="grid")).seconds == 0
    outcome, started = bench(grid)
    assert (outcome.finished, started) == (1, [])
    outcome, started = bench({**grid, "seeds": [0, 1]})
    assert (outcome.finished, started) == (2, ["teachers/big", "caches/big", cell("CE", 1)])


def test_another_grid_is_not_written_over_it(bench, tmp_path):
    bench(with_(seeds=[0], methods={"CE": {}}))
    before = (tmp_path / "grid/grid.json").read_bytes()
    with pytest.raises(InputError, match=r"grid has the grid 'grid', and this one is 'other'.*`name: grid`"):
        bench({"name": "other", **with_(seeds=[0], methods={"KD": {}})})
    assert (tmp_path / "grid/grid.json").read_bytes() == before


def test_a_second_one_is_kept_out(bench, tmp_path):
    """By another process, as a record lock does not keep out its own."""
    (tmp_path / "grid").mkdir()
    code = "import fcntl, sys\nlock = open(sys.argv[1], 'a')\nfcntl.lockf(lock, fcntl.LOCK_EX)\n"
    code += "print('held', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "grid/.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            InputError, match="grid is in use by another process; wait for it, or give another"
        ):
            bench()
        other.stdin.close()
    assert bench(with_(seeds=[0], methods={"CE": {}}))[0].finished == 1


def test_a_folder_that_cannot_be_written(bench, tmp_path):
    (tmp_path / "grid/.lock").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write the folder grid: Is a directory; give another --out"):
        bench()


def test_a_file_system_without_locks(bench, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with pytest.raises(InputError, match=r"cannot write the folder grid: No locks available"):
        bench()


def test_a_file_of_the_grid_that_is_no_text(bench, tmp_path):
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid/spec.yaml").write_text("name: grid")
    (tmp_path / "grid/failures.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"failures\.json is not valid JSON .*; remove it"):
        bench()


def test_a_folder_with_other_things_is_left_alone(bench, tmp_path):
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid/thesis.tex").write_text("important")
    with pytest.raises(InputError, match=r"not the folder of a grid.*thesis\.tex"):
        bench()
    assert [entry.name for entry in (tmp_path / "grid").iterdir()] == ["thesis.tex"]


def test_a_launcher_is_refused(bench, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without a launcher"):
        bench()


def test_stopped_by_a_signal(bench, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = InProcess.start

        def start(self, task):
            started(self, task)
            if len(self.started) == 2:
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(InProcess, "start", start)
            with pytest.raises(Interrupted):
                bench()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    outcome, _ = bench()
    assert outcome.finished == 6
