"""Several processes train what one would, and fall together. Here they are two, on one CPU, over gloo."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState

from cmkd.cli import main
from cmkd.errors import InputError
from cmkd.models import read_state_dict
from cmkd.training import DistillConfig, distill
from cmkd.training.meters import Meters
from cmkd.training.processes import Processes, open_accelerator, random_seed

TESTS = Path(__file__).parents[1]
LIMIT = 240


def options(out, **changes):
    common = {
        "student": "tiny_networks:steady",
        "teacher": "tiny_networks:teacher",
        "teacher_weights": "random",
        "epochs": 2,
        "batch_size": 512,
        "lr": 0.002,  # large steps would magnify what differs in the last bits
        "clip_grad": 5.0,
        "precision": "fp32",  # as bfloat16 would, which a CPU may have
        "cpu": True,
    }
    return {**common, "out": str(out), **changes}


def words(**options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value).lower())]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(command, *, port, count=2):
    """Start one command in several processes, as a launcher does."""
    here = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=TESTS,
            env={**here, "WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes):
    """Return status, output and errors of each."""
    try:
        said = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


def run_plan(plan, *, count=2):
    for status, _, errors in finish(
        start(["in_processes.py", json.dumps(plan)], port=free_port(), count=count)
    ):
        assert status == 0, errors


def weights(folder):
    return read_state_dict(folder / "student.safetensors")


def difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one if one[name].is_floating_point())


def scores(folder):
    """Return what an epoch's row says, without its time."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


STATEFUL = {"student": "tiny_networks:student", "ema_decay": 0.9, "seed": 1}
LONG = {**STATEFUL, "epochs": 12, "checkpoint_seconds": 0.1}
INTRA = {"name": "DIST"}
# Two that compare images with each other, one with a memory, and one that looks at each image alone.
FEATURES = {
    "student": "tiny_networks:staged",
    "teacher": "tiny_networks:staged_teacher",
    "batch_size": 64,
    "validation": 0.95,
    "with_": [
        {"name": "RKD"},
        {"name": "CC"},
        {"name": "CRD", "negatives": 64},
        {"name": "AT", "weight": 10.0},
    ],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with the runs of two processes, which are started once for all of them."""
    folder = tmp_path_factory.mktemp("two")
    plan = [
        {"options": options(folder / "copied")},
        {"options": options(folder / "apart"), "across_batch": False},
        {"options": options(folder / "dist", loss=INTRA)},
        {"options": options(folder / "features", **FEATURES)},
        {"options": options(folder / "whole", **STATEFUL)},
        {"options": options(folder / "stopped", **STATEFUL), "stop": [1, 5]},
        {"options": options(folder / "stopped", **STATEFUL), "stop": [0, 6]},
        {"options": options(folder / "stopped", **STATEFUL)},
        {"options": options(folder / "long", **LONG)},
    ]
    run_plan(plan)
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Folder with runs of two processes whose weights are spread over them; one was begun by one process."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("this PyTorch does not spread weights on a CPU")
    folder = tmp_path_factory.mktemp("sharded")
    begun = [{"options": options(folder / "begun", fsdp=True), "stop": [0, 7]}]
    run_plan(begun, count=1)
    plan = [
        {"options": options(folder / "whole", fsdp=True)},
        {"options": options(folder / "stopped", fsdp=True), "stop": [1, 7]},
        {"options": options(folder / "stopped", fsdp=True)},
        {"options": options(folder / "begun", fsdp=True)},
    ]
    run_plan(plan)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder with the same runs of one process."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        distill(DistillConfig(**options(folder / "copied")), progress=False)
        distill(DistillConfig(**options(folder / "dist", loss=INTRA)), progress=False)
        distill(DistillConfig(**options(folder / "features", **FEATURES)), progress=False)
    return folder


@pytest.mark.parametrize(
    ("group", "run", "like"),
    [
        ("runs", "copied", "copied"),
        ("runs", "dist", "dist"),
        ("runs", "features", "features"),
        ("sharded", "whole", "copied"),
        ("sharded", "begun", "copied"),
    ],
)
def test_the_student_is_that_of_one_process(request, alone, group, run, like):
    folder = request.getfixturevalue(group)
    assert difference(weights(folder / run), weights(alone / like)) < 2e-6
    for row, expected in zip(scores(folder / run), scores(alone / like), strict=True):
        assert row["histograms"] == expected["histograms"]
        assert row["train"] == pytest.approx(expected["train"], rel=1e-4)
        assert row["validation"] == pytest.approx(expected["validation"], rel=1e-3)


def test_a_loss_that_looks_across_the_batch_needs_all_of_it(runs, alone):
    assert difference(weights(runs / "apart"), weights(alone / "copied")) > 2e-5


@pytest.mark.parametrize("group", ["runs", "sharded"])
def test_stopped_in_one_process_and_continued_in_both(request, group):
    folder = request.getfixturevalue(group)
    assert difference(weights(folder / "whole"), weights(folder / "stopped")) == 0
    assert scores(folder / "whole") == scores(folder / "stopped")


def test_what_was_stopped_in_two_processes_ends_in_one(runs, monkeypatch, caplog):
    """Nothing in a checkpoint but the random numbers depends on how many processes there were."""
    monkeypatch.syspath_prepend(str(TESTS))
    state = torch.load(runs / "copied/state/checkpoint.pt", weights_only=True)
    assert len(state["rng"]) == 2
    state["position"] |= {"epoch": 1, "metrics_bytes": 0}
    torch.save(state, runs / "copied/state/checkpoint.pt")
    (runs / "copied/result.json").unlink()
    run = distill(DistillConfig(**options(runs / "copied")), progress=False)
    assert [row["epoch"] for row in run.read_metrics()] == [2]
    assert "processes (2, now 1)" in caplog.text


def test_a_process_that_dies_ends_all_and_its_run_goes_on(tmp_path, runs):
    """By the documented command."""
    distill = ["-m", "cmkd", "distill", *words(**options(tmp_path / "run", **LONG))]
    launch = [
        "-m",
        "accelerate.commands.launch",
        *("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    launcher = subprocess.Popen(
        [sys.executable, *launch, *distill],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = time.monotonic()
    while not (tmp_path / "run/state/checkpoint.pt").exists() and time.monotonic() - begun < LIMIT:
        assert launcher.poll() is None, launcher.stderr.read()
        time.sleep(0.02)
    (victim,) = (
        process for process in psutil.Process(launcher.pid).children() if process.environ().get("RANK") == "1"
    )
    victim.send_signal(signal.SIGKILL)
    _, errors = launcher.communicate(timeout=LIMIT)
    assert launcher.returncode != 0
    assert "cmkd: error: process 0 of 2 lost another one" in errors
    assert not (tmp_path / "run/result.json").exists(), "it was through before the process was killed"

    for status, _, errors in finish(start(distill, port=free_port())):
        assert status == 0, errors
    assert difference(weights(tmp_path / "run"), weights(runs / "long")) == 0


def test_every_process_draws_numbers_of_its_own():
    draws = set()
    for rank in range(8):
        draws.add(torch.rand(1, generator=torch.Generator().manual_seed(random_seed(5, rank))).item())
    assert len(draws) == 8
    assert random_seed(5, 0) == 5


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs namespaces")
def test_two_hosts(tmp_path, runs):
    command = ["unshare", "--map-root-user", "--net", "sh", str(TESTS / "two_hosts.sh")]
    given = {name: value for name, value in options("", **STATEFUL).items() if name != "out"}
    command += [str(tmp_path / "first"), str(tmp_path / "second"), *words(**given)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode in (1, 77) and not (tmp_path / "first").exists():
        pytest.skip(f"no namespaces here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert difference(weights(tmp_path / "first"), weights(runs / "whole")) == 0
    assert not (tmp_path / "second").exists()  # only the first process writes
    assert done.stdout.count("run folder") == 1


def test_what_is_wrong_is_said_once(tmp_path):
    given = options(tmp_path / "run", batch_size=511)
    told = finish(start(["-m", "cmkd", "distill", *words(**given)], port=free_port()))
    assert [status for status, _, _ in told] == [2, 2]
    assert "batch_size 511 cannot be shared equally by 2 processes" in told[0][2]
    assert "error" not in told[1][2]
    assert not (tmp_path / "run").exists()


def test_what_only_another_machine_lacks_is_said_there(tmp_path, monkeypatch, capsys):
    """Its first process speaks; the others on it, and those with the same files, need not."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, local in ((2, 0), (3, 1)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert main(["distill", "--config", str(tmp_path / "nothing.yaml")]) == 2
        assert ("nothing.yaml" in capsys.readouterr().err) == (local == 0)


def test_a_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (first, second) = start(["-m", "cmkd", "distill", *words(**options(tmp_path / "run"))], port=port)
        _, errors = first.communicate(timeout=LIMIT)
        second.kill()
        second.communicate()
    assert first.returncode == 2
    assert f"process 0 of 2 cannot meet the others at 127.0.0.1:{port}" in errors
    assert "Traceback" not in errors


@pytest.fixture
def unopened(monkeypatch):
    """A process that has not opened its device yet, and that no launcher has started."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield monkeypatch
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("place", ["0", "3"])
def test_a_place_that_another_library_left_is_none(unopened, place):
    """As Lightning leaves it: without the number of processes and where they meet."""
    unopened.setenv("LOCAL_RANK", place)
    accelerator, precision = open_accelerator("fp32", cpu=True)
    assert (accelerator.num_processes, accelerator.process_index, precision) == (1, 0, "fp32")
    assert os.environ["LOCAL_RANK"] == place, "it is the other library's"


def test_mpi_without_a_place_to_meet(unopened):
    unopened.setenv("OMPI_COMM_WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        unopened.setenv(name, "")  # restored in the end: Accelerate fills them in
        unopened.delenv(name)
    with pytest.raises(InputError, match=r"OMPI_COMM_WORLD_SIZE=2 .*accelerate launch"):
        open_accelerator("fp32", cpu=True)


class TwoProcesses(Processes):
    """The other one has what it is given."""

    def __init__(self, other):
        self.count, self.rank, self.is_main, self.other = 2, 0, True, other

    def share(self, value):
        return [value, self.other]


def test_meters_over_processes():
    """One that has seen nothing yet, as after a resume, changes nothing."""
    here, there, nothing = (Meters(torch.device("cpu")) for _ in range(3))
    logits = torch.eye(3)
    here.add(torch.tensor(1.0), logits, torch.tensor([0, 1, 1]), {"weight": torch.tensor([0.0, 0.5, 1.0])})
    there.add(torch.tensor(4.0), logits[:1], torch.tensor([0]), {"weight": torch.tensor([1.0])})
    total = here.over(TwoProcesses(there.state_dict()))
    assert total.means() == pytest.approx({"loss": 7 / 4, "accuracy": 3 / 4, "weight": 2.5 / 4})
    assert (total.histograms()["weight"][-1], sum(total.histograms()["weight"])) == (2, 4)
    for one, other in ((here, nothing), (nothing, here)):
        assert one.over(TwoProcesses(other.state_dict())).means() == here.means()
