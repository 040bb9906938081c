"""A run on the hub."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import yaml

from cmkd import __version__
from cmkd.errors import InputError
from cmkd.export.card import Card
from cmkd.files import at_home
from cmkd.hub.cards import FILE, MARK, figures, write_model_card
from cmkd.hub.client import is_repository, told
from cmkd.hub.loading import CARD, WEIGHTS
from cmkd.libraries import require
from cmkd.report.setting import shown

logger = logging.getLogger(__name__)

#: What is told of how a network was made, besides its card.
_RECORDS = ("config.yaml", "environment.json", "teacher.json", "result.json")


def push_to_hub(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    license: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Push the network of a finished run to the Hugging Face hub, in one commit.

    What goes there: the weights, `model.json`, the model card (`README.md`, which is written anew unless it
    is one's own, and left out where the one on the hub has been taken over) with its figures, and the run's
    options, versions, teacher, result and curves. Of absolute paths only the end is told.

    Args:
        run: Run folder.
        repo: Where to, `user/name`; it is made if need be.
        private: Make it for oneself alone; one that exists stays as it is.
        license: Licence of the network, as the hub names it; by default the one that its card names.
        message: What the commit says.
        token: Access token; by default that of `hf auth login`, or of the variable `HF_TOKEN`.

    Returns:
        The commit's address.

    Raises:
        InputError: The run is not finished, nobody is logged in, or the hub refuses or cannot be reached.
    """
    path = at_home(run)
    if not is_repository(repo):
        raise InputError(f"{repo!r} is no name of a repository on the hub; it has to read like user/name.")
    Card.of_run(path)
    hub = require("huggingface_hub", "hub")
    api = hub.HfApi(token=token, library_name="cmkd", library_version=__version__)
    with told("tell who is logged in to the hub", "Log in with `hf auth login`, or set HF_TOKEN."):
        api.whoami()
    write_model_card(path, license=license, repo=repo)
    contents = _contents(path)
    with told(
        f"push {path} to {repo}",
        "The name before the slash has to be yours or your organisation's, and the token has to allow "
        "writing. Then repeat the command: a commit is made whole or not at all.",
    ):
        api.create_repo(repo, private=private, exist_ok=True)
        if _is_taken_over(api, repo) and MARK in (path / FILE).read_text(encoding="utf-8"):
            del contents[FILE]
            logger.warning(
                "the model card of %s was not written by cmkd, or has been taken over: it stays as it is",
                repo,
            )
        operations = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in contents.items()
        ]
        commit = api.create_commit(
            repo, operations, commit_message=message or f"Add {path.absolute().name}, trained with cmkd"
        )
    return str(commit.commit_url)


def _is_taken_over(api: Any, repo: str) -> bool:
    """Whether a repository has a model card without the line by which it would be ours to replace."""
    if not api.file_exists(repo, FILE):
        return False
    return MARK.encode() not in Path(api.hf_hub_download(repo, FILE)).read_bytes()


def _contents(path: Path) -> dict[str, bytes | str]:
    """Return what is pushed: by name its content, or the file that has it."""
    found: dict[str, bytes | str] = {FILE: str(path / FILE), WEIGHTS: str(path / WEIGHTS)}
    for name in (CARD, *_RECORDS):
        if (path / name).is_file():
            found[name] = _without_places(path / name)
    others = [path / "metrics.jsonl", *figures(path)]
    return found | {file.relative_to(path).as_posix(): str(file) for file in others if file.is_file()}


def _without_places(file: Path) -> bytes:
    """Return the content of a JSON or YAML file with the end alone of each absolute path."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        said = yaml.safe_dump(_shortened(yaml.safe_load(text)), sort_keys=False, allow_unicode=True)
    else:
        said = json.dumps(_shortened(json.loads(text)), indent=2, ensure_ascii=False) + "\n"
    return said.encode("utf-8")


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: each if key == "classes" else _shortened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    if isinstance(value, str):
        return " + ".join(map(shown, value.split(" + ")))  # the sources of an ensemble
    return value
