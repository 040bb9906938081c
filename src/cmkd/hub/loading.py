"""Students by the name of their folder, or of their repository on the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from cmkd import models
from cmkd.errors import InputError
from cmkd.export.card import Card
from cmkd.files import at_home
from cmkd.hub.client import is_repository, told
from cmkd.libraries import require
from cmkd.teachers.opening import run_card

#: What a network consists of.
CARD, WEIGHTS = "model.json", "student.safetensors"


def from_pretrained(
    name: str | os.PathLike[str],
    *,
    network: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> nn.Module:
    """Load a student with its weights.

    Args:
        name: Folder of a finished run, which needs no network; or a repository on the Hugging Face hub,
            `user/name`, which is downloaded once and kept.
        network: The network's name, overriding what its `model.json` says. Needed for one from the hub whose
            code is your own, `package.module:factory`: a downloaded file does not choose what is run.
        revision: Branch, tag or commit on the hub; the newest by default.
        token: Access token of the hub, for private repositories; by default that of `hf auth login`.
        cache_dir: Where downloads are kept; the hub client's own place by default.
        local_files_only: Take only what has been downloaded before.

    Returns:
        The network, on the CPU in eval mode, from images `(N, 3, S, S)` to logits `(N, C)`. Its attribute
        `card` has the names of its `classes`, its `image_size`, `mean` and `std`, and `to_input(levels)`,
        which turns grey levels (0 to 255) into its input.

    Raises:
        InputError: There is no such folder or repository, it holds something else, or it cannot be fetched.

    Example:
        >>> from cmkd.teachers.opening import SHIPPED  # the teacher of the demo
        >>> network = from_pretrained(SHIPPED)
        >>> network.card.network, network.card.classes[0]
        ('resnet20', 'T-shirt/top')
    """
    folder = at_home(name)
    if not folder.is_dir():
        folder = download(
            str(name),
            network=network,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
    described = run_card(folder)
    student: Any = models.build(network or described["network"], described["num_classes"])
    models.load_weights(student, folder / WEIGHTS)
    student.card = Card.of_run(folder)
    return student.eval()


def download(
    name: str,
    *,
    network: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch a student from the hub, unless it has been fetched before.

    Args:
        name: Repository, `user/name`; a `hf:` before it is taken away.
        network: As for `from_pretrained`, and so are the others.
        revision: Branch, tag or commit.
        token: Access token.
        cache_dir: Where downloads are kept.
        local_files_only: Take only what has been downloaded before.

    Returns:
        The folder with its `model.json` and its weights.

    Raises:
        InputError: It cannot be fetched, is no student of this package, or names code of one's own.
    """
    repo = name.removeprefix("hf:")
    if not is_repository(repo):
        raise InputError(f"{name}: there is no such folder, and on the hub names read like user/name.")
    hub = require("huggingface_hub", "hub")
    with told(
        f"fetch {repo} from the hub, and there is no folder of that name",
        "Look at the name, and for a private one log in with `hf auth login`; without a network, download it "
        "elsewhere and name the folder.",
    ):
        folder = Path(
            hub.snapshot_download(
                repo,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=[CARD, WEIGHTS],
            )
        )
    for file in (CARD, WEIGHTS):
        if not (folder / file).is_file():
            raise InputError(f"{repo} on the hub is no student of cmkd: it has no {file}.")
    named = run_card(folder)["network"]
    if network is None and is_own_code(named):
        raise InputError(
            f"{repo} names the network {named!r}, code that a downloaded file must not choose. If you know "
            f"it, name it yourself: from_pretrained({repo!r}, network={named!r})."
        )
    return folder


def is_own_code(network: str) -> bool:
    """Whether a network's name is the dotted path of somebody's own code.

    Example:
        >>> [is_own_code(name) for name in ("resnet8", "timm:resnet18", "simkd:256x8:nets:make")]
        [False, False, True]
    """
    while network.startswith("simkd:"):  # `simkd:256x8:NAME` is the network NAME with a new end
        network = network.split(":", 2)[-1]
    source, colon, _ = network.partition(":")
    return bool(colon) and source not in ("timm", "torchvision")
