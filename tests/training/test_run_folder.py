import errno
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from cmkd.errors import InputError
from cmkd.training.run_folder import RunFolder

OPTIONS = {"data": "cifar10", "epochs": 3, "lr": 0.1}


def claim(path, **changes):
    options = {**OPTIONS, **changes}
    return RunFolder(path).claim(options, {**options, "workers": 2})


def test_the_configuration_is_kept_and_the_same_one_is_let_in_again(tmp_path):
    for _ in range(2):
        with claim(tmp_path / "run"):
            pass
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text()) == {
        **OPTIONS,
        "workers": 2,
    }


def test_another_configuration_is_refused_with_both_values(tmp_path):
    with claim(tmp_path / "run"):
        pass
    with (
        pytest.raises(InputError, match=r"epochs: there 3, now 4.*another --out"),
        claim(tmp_path / "run", epochs=4),
    ):
        pass


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(InputError, match=r"not a run folder.*thesis\.tex"), claim(tmp_path):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"), claim(tmp_path / "run"):
        pass


def test_a_second_process_is_kept_out_while_the_first_is_at_work(tmp_path):
    code = (
        "import json, sys\nfrom cmkd.errors import InputError\n"
        "from cmkd.training.run_folder import RunFolder\n"
        "try:\n    with RunFolder(sys.argv[1]).claim(json.loads(sys.argv[2]), {}): print('in')\n"
        "except InputError as error: print(error)\n"
    )
    with claim(tmp_path / "run"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run"), json.dumps(OPTIONS)],
            capture_output=True,
            text=True,
        )
    assert "in use by another process" in done.stdout, done.stderr


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    with claim(tmp_path / "run") as folder:
        folder.save_state({"step": 1})

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(InputError, match=r"No space left.*previous one is intact"):
            folder.save_state({"step": 2})
        assert folder.load_state() == {"step": 1}
        assert [entry.name for entry in (folder.path / "state").iterdir()] == ["checkpoint.pt"]


def test_a_cut_off_checkpoint_is_named(tmp_path):
    with claim(tmp_path / "run") as folder:
        folder.save_state({"step": torch.arange(100)})
        file = folder.path / "state/checkpoint.pt"
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(InputError, match=r"checkpoint\.pt is damaged"):
            folder.load_state()


def test_metrics_written_after_the_checkpoint_are_dropped(tmp_path):
    with claim(tmp_path / "run") as folder:
        length = folder.append_metrics({"epoch": 1})
        folder.append_metrics({"epoch": 2})
        folder.truncate_metrics(length)
        assert folder.read_metrics() == [{"epoch": 1}]
