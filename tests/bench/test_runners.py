import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from cmkd.bench import runners
from cmkd.bench.config import BenchConfig
from cmkd.bench.on_ray import RayRunner
from cmkd.bench.runners import LocalRunner, Task, cores
from cmkd.bench.running import open_runner
from cmkd.errors import InputError


@pytest.fixture
def scripts(monkeypatch):
    """Let the words of a task be a program for Python."""

    def begin(words, log, environment):
        return subprocess.Popen([sys.executable, "-S", "-c", *words], env=environment)

    monkeypatch.setattr(runners, "begin", begin)


def task(name, *words):
    return Task(name, words, None)


def test_each_slot_has_its_share_of_the_cores_and_one_gpu(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    runner = LocalRunner(3)
    environments = [runner.environment(slot) for slot in range(3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["4", "7", "4"]
    assert {each["OMP_NUM_THREADS"] for each in environments} == {str(max(1, cores() // 3))}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert runner.environment(0)["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_stay_hidden(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert LocalRunner(2).environment(1)["CUDA_VISIBLE_DEVICES"] == hidden


def test_a_slot_that_is_free_again_is_taken(monkeypatch, scripts):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    runner = LocalRunner(2)
    seen = []
    environment = runner.environment
    monkeypatch.setattr(runner, "environment", lambda slot: (seen.append(slot), environment(slot))[1])
    runner.start(task("long", "import time; time.sleep(60)"))
    runner.start(task("short", "raise SystemExit(3)"))
    assert runner.ended(30) == {"short": 3}
    runner.start(task("next", ""))
    assert runner.ended(30) == {"next": 0}
    assert seen == [0, 1, 1]
    assert runner.ended(0) == {}
    runner.close()


def test_a_process_that_is_stopped_may_end_in_its_own_time(tmp_path, scripts):
    code = (
        "import signal, sys, time, pathlib\n"
        "def end(*_): time.sleep(0.3); pathlib.Path(sys.argv[1]).write_text('kept'); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, end)\npathlib.Path(sys.argv[1]).write_text('begun')\ntime.sleep(60)\n"
    )
    runner = LocalRunner(1)
    runner.start(task("run", code, str(tmp_path / "state")))
    while not (tmp_path / "state").exists():
        time.sleep(0.01)
    runner.stop()
    assert (tmp_path / "state").read_text() == "kept"


def test_a_task_of_a_cluster_that_cannot_open_its_log_has_failed(tmp_path):
    class Cluster:
        """As much of Ray as is asked, with a task that has raised."""

        exceptions = SimpleNamespace(RayError=RuntimeError)

        def wait(self, tasks, **_):
            return tasks, []

        def get(self, task):
            raise RuntimeError("not a directory")

    (tmp_path / "logs").write_text("where a folder should be")
    runner = RayRunner.__new__(RayRunner)
    runner._ray = Cluster()
    runner._tasks = {"handle": Task("a", [], tmp_path / "logs/a.log")}
    assert runner.ended(0) == {"a": 1}
    assert runner.ended(0) == {}


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "cmkd\[cluster\]"'):
        open_runner(BenchConfig(spec="grid.yaml", runner="ray"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jobs": 0}, "--jobs is 0"),
        ({"address": "head:6379"}, "--address belongs to `--runner ray`"),
        ({"gpus_per_cell": 0.5}, "--gpus_per_cell belongs"),
        ({"runner": "ray", "gpus_per_cell": -1.0}, "--gpus_per_cell is -1.0"),
        ({"runner": "ray", "cpus_per_cell": 0.0}, "--cpus_per_cell is 0.0"),
    ],
)
def test_options_that_cannot_be_used(options, words):
    with pytest.raises(InputError, match=words):
        BenchConfig(spec="grid.yaml", **options)


def test_the_cores_are_those_of_this_process():
    assert 1 <= cores() <= (os.cpu_count() or 1)
