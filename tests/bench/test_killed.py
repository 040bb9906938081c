"""A grid that was stopped and killed, at any instant, ends as one that was not."""

import random
import signal
import sys
import time

import pytest

from tests.bench.processes import EPOCHS, alive, assert_same, children, prepare, rows, start, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children die with their parent on Linux")


def test_stopped_and_killed_and_repeated(unbroken, tmp_path):
    seed = random.randrange(2**32)
    print("seed of the instants:", seed)  # shown if the test fails
    instants = random.Random(seed)
    prepare(tmp_path, methods={"KD": {}})

    # SIGTERM: the runs keep their state.
    process = start(tmp_path)
    wait_for(lambda: rows(tmp_path) >= 1, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "repeat the same command to continue" in err
    assert rows(tmp_path) < EPOCHS, "it was stopped too late"

    # SIGKILL: nobody can do anything any more, and the runs end with it.
    process = start(tmp_path)
    wait_for(lambda: len(children(process.pid)) > 0, process)
    pids = children(process.pid)
    time.sleep(instants.uniform(0, 8))
    process.kill()
    process.communicate()
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)

    process = start(tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    assert "1 of 1 cells are finished" in out
    assert_same(unbroken, tmp_path, cells=1)
