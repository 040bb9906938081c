"""The model card of a run: `README.md` as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import yaml

from cmkd.errors import InputError
from cmkd.export.card import Card
from cmkd.files import write_atomic
from cmkd.hub.command import command_of
from cmkd.hub.front_matter import front_matter, read_front_matter
from cmkd.hub.loading import is_own_code
from cmkd.hub.scores import LATENCY, SCORES, Scores, scores_of
from cmkd.report.records import Record, read_run
from cmkd.report.setting import setting

FILE = "README.md"
#: By this line a card is known to be ours to replace.
MARK = "<!-- Written by cmkd, which replaces this file until this line is removed. -->"

_CLASSES_SHOWN = 20


def write_model_card(run: str | Path, *, license: str | None = None, repo: str | None = None) -> Path:
    """Write the model card of a finished run into its folder.

    Args:
        run: Run folder.
        license: Licence of the network, as the hub names it (`mit`, `apache-2.0`, ...). By default the one
            that the card names already, if there is one.
        repo: Name on the hub that the card tells people to load; by default it speaks of the folder.

    Returns:
        The file. A card that was written by hand, or has lost the line that says who wrote it, is left as
        it is.

    Raises:
        InputError: The folder is no finished run, the licence (or that of the card) is no name, or it belongs
            into a card that is not ours to change.
    """
    file = Path(run) / FILE
    if file.is_file():
        before = _text(file)
        if MARK not in before:
            if license is not None:
                raise InputError(
                    f"{file} was not written by cmkd, or has been taken over: write `license: {license}` "
                    "there, or remove the file."
                )
            return file
        license = license or _licence_in(before, file)
    return write_atomic(file, model_card(run, license=license, repo=repo))


def model_card(run: str | Path, *, license: str | None = None, repo: str | None = None) -> str:
    """Return the model card of a finished run: front matter for the hub, and what people want to know.

    Args:
        run: Run folder.
        license: Licence of the network, as the hub names it; none is chosen by default.
        repo: Name on the hub that the card tells people to load.

    Raises:
        InputError: The folder is no finished run, or the licence is no name.
    """
    path = Path(run)
    card = Card.of_run(path)
    record = read_run(path)
    if record.result is None:
        raise InputError(f"{path} is no finished run: it has no result.json.")
    scores = scores_of(record)
    title = (repo or path.absolute().name).rpartition("/")[2]
    head = front_matter(title, record, scores, license=license)
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)}---\n\n{MARK}",
        f"# {title}",
        _lead(record, card),
        _results(record, scores),
        _figures(path),
        _use(card, repo or path.absolute().name, on_hub=repo is not None),
        _making(record),
        _licence(license),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _lead(record: Record, card: Card) -> str:
    assert record.result is not None
    made = "trained on labels alone"
    if record.config["verb"] == "distill":
        methods = [record.config["loss"], *record.config.get("with", [])]
        made = f"distilled {_teacher(record)} by {' and '.join(each['name'] for each in methods)}"
    return (
        f"`{card.network}` ({record.result['parameters']:,} parameters), {made}, on "
        f"{setting({'': [record]})['Data']}. It tells {len(card.classes)} classes apart."
    )


def _teacher(record: Record) -> str:
    teacher = record.teacher
    if teacher is None:
        return "from logits in a cache"
    members = teacher.get("members") or [teacher]
    named = [f"`{each['network']}` ({each['parameters']:,} parameters)" for each in members]
    return f"from {' and '.join(named)}"


def _results(record: Record, scores: Scores) -> str:
    if not scores.student:
        return "## Results\n\nNothing was measured: the run looked at neither test nor validation images."
    columns = {"student": scores.student, "teacher": scores.teacher}
    named = [name for name, values in columns.items() if values]
    lines = [["", *named], ["---", *["--:"] * len(named)]]
    lines += [
        [score.heading, *(score.shown(columns[name]) for name in named)]
        for score in (*SCORES, LATENCY)
        if any(score.key in columns[name] for name in named)
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## Results\n\n{scores.setting}\n\n{table}" + (f"\n\n{scores.note}" if scores.note else "")


def figures(path: Path) -> list[Path]:
    """Return the figures that lie in a run folder; of one that is there in several forms, one."""
    found: dict[str, Path] = {}
    for suffix in (".svg", ".jpg", ".png"):  # what shows everywhere comes last
        found |= {file.stem: file for file in (path / "figures").glob(f"*{suffix}")}
    return [found[stem] for stem in sorted(found)]


def _figures(path: Path) -> str:
    shown = []
    for file in figures(path):
        words = file.stem.replace("-", " ").replace("_", " ")
        shown.append(f"![{words}]({quote(file.relative_to(path).as_posix())})")
    return "\n\n".join(shown)


def _use(card: Card, name: str, *, on_hub: bool) -> str:
    entry = card.description()["input"]
    made = f"{entry['picture']}; {entry['channels']}; {entry['values']}"
    own = ""
    if is_own_code(card.network):
        own = f"\n\nIts code is not in this folder: `{card.network}` has to be importable" + (
            f", and is named once more in Python: `network={card.network!r}`." if on_hub else "."
        )
    listed = ", ".join(card.classes[:_CLASSES_SHOWN])
    more = len(card.classes) - _CLASSES_SHOWN
    classes = listed + (f" and {more} more, in `model.json`" if more > 0 else "")
    return f"""## Use

```
pip install {'"cmkd[hub]"' if on_hub else "cmkd"}
cmkd predict {f"hf:{name}" if on_hub else name} photo.jpg
```

```python
import cmkd

network = cmkd.from_pretrained("{name}")  # an nn.Module in eval mode
logits = network(images)
```

`images` has the shape (N, 3, {card.image_size}, {card.image_size}): {made}.

Classes, in the order of the logits: {classes}.{own}"""


def _making(record: Record) -> str:
    shared = setting({"": [record]})
    rows = [f"| {topic} | {_cell(text)} |" for topic, text in shared.items()]
    command = command_of(record.config)
    short = " (of absolute paths only the end is shown)" if "…" in command else ""
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"## How it was made\n\n```\n{command}\n```\n\nwith cmkd at the revision below{short}.\n\n{table}"


def _licence(license: str | None) -> str:
    if license is not None:
        return f"## Licence\n\n{license}."
    return (
        "## Licence\n\nNone has been chosen: `cmkd card RUN --license apache-2.0`, say. The images that it "
        "has learnt from, and the teacher, may have licences that bear on this one."
    )


def _licence_in(text: str, file: Path) -> str | None:
    """Return the licence that a card names, if it names one."""
    named = read_front_matter(text).get("license")
    if named is None or isinstance(named, str):
        return named
    raise InputError(f"{file} has {named!r} as its licence; write one name there: `license: mit`, say.")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as text: {error}; remove it.") from None
