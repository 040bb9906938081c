"""Pushing and loading against a stand-in of the hub, whose calls have to fit the real client's."""

import fnmatch
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import cmkd
from cmkd.cli import main
from cmkd.errors import InputError
from cmkd.hub import from_pretrained, push_to_hub
from cmkd.hub.cards import MARK
from cmkd.teachers.opening import SHIPPED

client = pytest.importorskip("huggingface_hub")


class StandIn:
    """Repositories as folders; of the client what is called, with its signatures."""

    def __init__(self, root):
        self.root, self.login, self.calls = root, "ada", []

    def __call__(self, **options):  # HfApi(...)
        inspect.signature(REAL.__init__).bind(self, **options)
        return self

    def _called(self, real, *arguments, **options):
        inspect.signature(real).bind(*arguments, **options)
        self.calls.append(real.__name__)

    def whoami(self):
        if self.login is None:
            raise client.errors.LocalTokenNotFoundError("Token is required, but no token found.")
        return {"name": self.login}

    def create_repo(self, repo, **options):
        self._called(REAL.create_repo, self, repo, **options)
        if repo.partition("/")[0] != self.login:
            raise PermissionError("403 Forbidden: you don't have the rights to create a model there.\nmore")
        (self.root / repo).mkdir(parents=True, exist_ok=options["exist_ok"])
        self.private = options["private"]

    def file_exists(self, repo, name, **options):
        self._called(REAL.file_exists, self, repo, name, **options)
        return (self.root / repo / name).is_file()

    def hf_hub_download(self, repo, name, **options):
        self._called(REAL.hf_hub_download, self, repo, name, **options)
        return str(self.root / repo / name)

    def create_commit(self, repo, operations, **options):
        self._called(REAL.create_commit, self, repo, operations, **options)
        self.message = options["commit_message"]
        for each in operations:
            target = self.root / repo / each.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            with each.as_file() as file:
                target.write_bytes(file.read())
        url = f"{client.constants.ENDPOINT}/{repo}/commit/{40 * '0'}"
        return client.CommitInfo(
            commit_url=url, commit_message=self.message, commit_description="", oid="0", pr_url=None
        )

    def snapshot_download(self, repo, **options):
        self._called(client_download, repo, **options)
        if not (self.root / repo).is_dir():
            raise client.errors.LocalEntryNotFoundError(f"no {repo}")
        target = self.root / "downloads"
        for file in (self.root / repo).rglob("*"):
            name = file.relative_to(self.root / repo).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, one) for one in options["allow_patterns"]):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(file.read_bytes())
        target.mkdir(exist_ok=True)
        return str(target)


REAL, client_download = client.HfApi, client.snapshot_download


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path / "hub")
    monkeypatch.setattr(client, "HfApi", stand_in)
    monkeypatch.setattr(client, "snapshot_download", stand_in.snapshot_download)
    return stand_in


def same_weights(network, file):
    weights = load_file(file)
    state = network.state_dict()
    return weights.keys() == state.keys() and all(torch.equal(state[name], weights[name]) for name in weights)


def test_what_is_pushed_comes_back(run, hub, change):
    (run / "state").mkdir()
    (run / "state/checkpoint.pt").touch()
    (run / "figures").mkdir()
    (run / "figures/curves.png").write_bytes(b"png")
    config = {**yaml.safe_load((run / "config.yaml").read_text()), "teacher": "/home/someone/runs/wide"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    change(run / "teacher.json", source="/home/someone/runs/wide")

    assert push_to_hub(run, "ada/shirts", license="mit").endswith("ada/shirts/commit/" + 40 * "0")
    pushed = hub.root / "ada/shirts"
    assert sorted(file.relative_to(pushed).as_posix() for file in pushed.rglob("*") if file.is_file()) == [
        *("README.md", "config.yaml", "environment.json", "figures/curves.png", "metrics.jsonl"),
        *("model.json", "result.json", "student.safetensors", "teacher.json"),
    ]
    for file in pushed.rglob("*.[jmy]*"):
        assert "someone" not in file.read_text(), file
    assert json.loads((pushed / "teacher.json").read_text())["source"] == "…/runs/wide"
    card = client.ModelCard.load(pushed / "README.md")
    assert (card.data.license, card.data.model_name) == ("mit", "shirts")
    assert 'cmkd.from_pretrained("ada/shirts")' in card.text
    assert "cmkd predict hf:ada/shirts photo.jpg" in card.text

    network = cmkd.from_pretrained("ada/shirts")
    assert same_weights(network, SHIPPED / "student.safetensors")
    assert not network.training
    names = json.loads((SHIPPED / "model.json").read_text())["classes"]
    assert network.card.classes == tuple(names)
    assert {file.name for file in (hub.root / "downloads").iterdir()} == {"model.json", "student.safetensors"}


def test_of_an_ensemble_only_the_ends_of_paths_are_pushed(run, hub, change):
    change(run / "teacher.json", source="runs/a + /home/someone/runs/wide + /home/someone/nets/b")
    push_to_hub(run, "ada/shirts")
    told = json.loads((hub.root / "ada/shirts/teacher.json").read_text())
    assert told["source"] == "runs/a + …/runs/wide + …/nets/b"


def test_a_card_that_was_taken_over_on_the_hub_stays(run, hub, caplog):
    push_to_hub(run, "ada/shirts")
    there = hub.root / "ada/shirts/README.md"
    push_to_hub(run, "ada/shirts", license="mit")
    assert "license: mit" in there.read_text()  # still ours
    assert not caplog.text

    own = there.read_text().replace(MARK, "My words.")
    there.write_text(own)
    (hub.root / "ada/shirts/model.json").unlink()
    push_to_hub(run, "ada/shirts")
    assert there.read_text() == own
    assert (hub.root / "ada/shirts/model.json").is_file()
    assert "the model card of ada/shirts was not written by cmkd, or has been taken over" in caplog.text

    (run / "README.md").write_text("Other words.")  # one's own as well, and what is to be there now
    push_to_hub(run, "ada/shirts")
    assert there.read_text() == "Other words."


def test_a_folder_needs_no_hub(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    network = from_pretrained(run)
    pixels = torch.full((2, 3, 28, 28), 51.0)
    expected = (0.2 - 0.286) / 0.353
    assert network.card.to_input(pixels) == pytest.approx(torch.full((2, 3, 28, 28), expected), abs=1e-6)
    assert network(network.card.to_input(pixels)).shape == (2, 10)
    with pytest.raises(InputError, match=r'pip install "cmkd\[hub\]"'):
        from_pretrained("ada/shirts")
    with pytest.raises(InputError, match=r'pip install "cmkd\[hub\]"'):
        push_to_hub(run, "ada/shirts")


def test_predict_by_the_name_on_the_hub(run, hub, tmp_path, capsys):
    assert main(["push", str(run), "ada/shirts", "--private", "--message", "First"]) == 0
    assert "/ada/shirts/commit/" in capsys.readouterr().out
    assert (hub.private, hub.message) == (True, "First")
    Image.new("L", (28, 28), 90).save(tmp_path / "grey.png")
    assert main(["predict", "hf:ada/shirts", str(tmp_path / "grey.png"), "--top", "1"]) == 0
    by_name = capsys.readouterr().out
    assert main(["predict", str(run), str(tmp_path / "grey.png"), "--top", "1"]) == 0
    assert capsys.readouterr().out == by_name != ""


def test_nothing_downloaded_chooses_what_is_run(run, hub, change, tiny_networks):
    change(run / "model.json", network="tiny_networks:student")
    from cmkd import models

    models.save_weights(models.build("tiny_networks:student", 10), run / "student.safetensors")
    push_to_hub(run, "ada/own")
    assert "network='tiny_networks:student'" in (hub.root / "ada/own/README.md").read_text()
    sys.modules.pop("tiny_networks", None)
    with pytest.raises(InputError, match="a downloaded file must not choose"):
        from_pretrained("ada/own")
    assert main(["predict", "hf:ada/own", "x.png"]) == 2
    assert "tiny_networks" not in sys.modules
    named = from_pretrained("ada/own", network="tiny_networks:student")
    assert same_weights(named, run / "student.safetensors")
    assert same_weights(from_pretrained(run), run / "student.safetensors")  # one's own folder may


@pytest.mark.parametrize(
    ("login", "repo", "message"),
    [
        (None, "ada/shirts", "hf auth login"),
        ("ada", "shirts", "has to read like user/name"),
        ("ada", "grace/shirts", "403 Forbidden"),
    ],
)
def test_a_push_that_cannot_be(run, hub, login, repo, message, capsys):
    hub.login = login
    assert main(["push", str(run), repo]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert "create_commit" not in hub.calls


def test_an_unfinished_run_is_not_pushed(run, hub):
    (run / "model.json").unlink()
    with pytest.raises(InputError, match="no finished run"):
        push_to_hub(run, "ada/shirts")
    assert hub.calls == []
    assert not (run / "README.md").exists()


def test_what_is_not_there(hub):
    with pytest.raises(InputError, match=r"cannot fetch runs/nothing .* no folder of that name"):
        from_pretrained("runs/nothing")
    with pytest.raises(InputError, match="there is no such folder"):
        from_pretrained("nothing")
    (hub.root / "ada/bert").mkdir(parents=True)
    (hub.root / "ada/bert/config.json").write_text("{}")
    with pytest.raises(InputError, match=r"ada/bert on the hub is no student of cmkd: it has no model\.json"):
        from_pretrained("ada/bert")


def test_it_is_loaded_when_it_is_used():
    """Neither the hub's client nor what trains comes with the losses."""
    program = (
        "import sys, cmkd\n"
        "assert 'cmkd.hub' not in sys.modules\n"
        "assert {'from_pretrained', 'push_to_hub'} <= set(dir(cmkd))\n"
        "cmkd.from_pretrained\n"
        "assert 'cmkd.hub' in sys.modules and 'huggingface_hub' not in sys.modules\n"
        "try:\n    cmkd.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "'cmkd' has no attribute 'nothing'" in done.stdout


def test_folders_may_be_paths():
    assert same_weights(from_pretrained(Path(SHIPPED)), SHIPPED / "student.safetensors")


def test_the_page_on_the_hub(run, hub, tmp_path, monkeypatch, capsys):
    """Its commands and its Python run in an order in which they can, all to the letter but RUN and user."""
    text = (Path(__file__).parents[2] / "docs/hub.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs/student")
    Image.new("RGB", (40, 40), (90, 10, 10)).save(tmp_path / "photo.jpg")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    commands = [
        line.replace("RUN", "runs/student").replace("user/", "ada/").split()[1:]
        for language, block in blocks
        if not language
        for line in block.splitlines()
    ]
    assert [words[0] for words in commands] == ["card", "predict", "push"]
    for words in sorted(commands, key=lambda words: words[0] == "predict"):  # what is pushed can be asked
        assert main(words) == 0, capsys.readouterr().err
    names = {}
    (python,) = (block for language, block in blocks if language == "python")
    exec(python, names)
    assert not names["network"].training
    card = names["network"].card
    for attribute in ("classes", "image_size", "mean", "std", "to_input"):
        assert f"`{attribute}" in text
        assert hasattr(card, attribute)
    assert names["cmkd"].push_to_hub("runs/student", "ada/name").startswith(client.constants.ENDPOINT)
