"""A grid on a Ray cluster of two machines, of which one worker is killed at work."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.bench.processes import EPOCHS, alive, assert_same, prepare, rows, start, wait_for

cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children die with their parent on Linux")


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def job_at_work(root):
    """Return a process that trains in a folder, and its parent, the worker of the cluster."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            ours = b"cmkd.bench.child" in (process / "cmdline").read_bytes()
            if ours and (process / "cwd").resolve() == root.resolve():
                status = (process / "status").read_text()
                return int(process.name), int(status.partition("\nPPid:\t")[2].partition("\n")[0])
    raise AssertionError("no job is at work")


def test_a_worker_is_killed_in_the_middle(unbroken, tmp_path, cluster):
    prepare(tmp_path)
    process = start(tmp_path, "--runner", "ray", "--address", cluster.address)
    try:
        wait_for(lambda: rows(tmp_path) >= 1, process)
        job, worker = job_at_work(tmp_path)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not alive(job), process, seconds=10)
        assert rows(tmp_path) < 2 * EPOCHS, "it was killed too late"
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, (out, err)
    assert "2 of 2 cells are finished" in out
    logs = [file.read_text() for file in tmp_path.glob("grid/logs/cells/**/*.log")]
    assert sorted(log.count("== ") for log in logs) == [1, 2]
    assert_same(unbroken, tmp_path, cells=2)
