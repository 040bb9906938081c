"""The parts of a grid's file, looked at key by key, so that a message names the file and the place in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from cmkd.bench.spec import merged
from cmkd.cli_added import checked_method
from cmkd.cli_parser import Parser
from cmkd.errors import InputError
from cmkd.training.building import build_added, build_loss
from cmkd.training.cache_config import CacheConfig
from cmkd.training.config import DistillConfig, RunConfig, TrainConfig

_OF_TEACHER = {"teacher", "teacher_weights", "teacher_mean", "teacher_std", "teacher_image_size"}


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


#: Options of `cmkd distill` that a grid does not decide itself.
DISTILL = frozenset(
    _names(DistillConfig) - _OF_TEACHER - {"cache", "student", "loss", "with_", "seed", "out"}
)
#: Those of a method.
METHOD = DISTILL | {"loss", "with"}
#: Options of `cmkd train` for a teacher.
TRAIN = frozenset(_names(TrainConfig) - {"out"})
#: Those of `cmkd cache` that are not the students' as well.
CACHE = frozenset({"views", "dtype", "batch_size", "workers", "augment_seed"})
#: Those that students share with their teacher's cache, so that they can only be the whole grid's.
CACHED = frozenset(
    {"data", "image_size", "image_column", "label_column", "augment", "augment_seed", "precision", "cpu"}
)
#: Options of a teacher that are its students' unless it has its own. Views are pixels shown again: a cache's.
SHARED = frozenset(_names(RunConfig) - {"seed", "out", "views", "augment_seed"})


class Section:
    """A mapping somewhere in the file.

    Args:
        file: The file.
        where: Its keys from the top, as `methods.KD`; empty for the whole.
        content: What stands there; nothing counts as an empty mapping.

    Raises:
        InputError: It is no mapping.
    """

    def __init__(self, file: Path, where: str, content: Any) -> None:
        self.file = file
        self.where = where
        if content is None:
            content = {}
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise self.error(f"is {content!r}; it has to be a mapping of names, such as `{{epochs: 30}}`.")
        self.content: dict[str, Any] = content

    def __contains__(self, key: str) -> bool:
        return key in self.content

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def error(self, said: str, key: str = "") -> InputError:
        """Return the error for what stands here, or under a key."""
        place = ".".join(part for part in (self.where, key) if part)
        return InputError(f"{self.file}: {f'`{place}` ' if place else 'it '}{said}")

    def only(self, allowed: Iterable[str]) -> None:
        """Refuse keys that do not exist."""
        allowed = sorted(allowed)
        for key in self.content:
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, n=3, cutoff=0.6)
                hint = f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(allowed)}."
                raise self.error(f"does not exist; {hint}", key)

    def section(self, key: str) -> Section:
        """Return the mapping under a key; an empty one if there is none."""
        return Section(self.file, f"{self.where}.{key}" if self.where else key, self.content.get(key))

    def items(self, key: str, what: str) -> list[Any]:
        """Return the list under a key.

        Args:
            key: The key.
            what: What the list holds, with an example, for the message.

        Raises:
            InputError: It is no list, or empty.
        """
        value = self.content.get(key)
        if not isinstance(value, list) or not value:
            raise self.error(f"is {value!r}; it has to be a list of {what}.", key)
        return value

    def texts(self, key: str, what: str) -> list[str]:
        """Return the names under a key, each of them once."""
        values = self.items(key, what)
        for value in values:
            if not isinstance(value, str):
                raise self.error(f"holds {value!r}; it has to be a list of {what}.", key)
        return self.distinct(key, values)

    def text(self, key: str, known: Iterable[str], what: str) -> str:
        """Return the name under a key, one of those that are known."""
        value, known = self.content.get(key), list(known)
        if value not in known:
            raise self.error(f"is {value!r}; it has to be one of {what}: {', '.join(known)}.", key)
        return str(value)

    def seeds(self, key: str) -> list[int]:
        """Return the seeds under a key."""
        values = self.items(key, "seeds, such as [0, 1, 2]")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
                raise self.error(f"holds {value!r}; a seed is a whole number from 0 to 2147483647.", key)
        return self.distinct(key, values)

    def distinct(self, key: str, values: list[Any]) -> list[Any]:
        """Refuse to have a value twice."""
        for index, value in enumerate(values):
            if value in values[:index]:
                raise self.error(f"has {value!r} twice.", key)
        return values

    def options(self, kind: type, allowed: Iterable[str]) -> dict[str, Any]:
        """Return what stands here as options of a verb, with the types that they have there.

        Args:
            kind: The verb's configuration.
            allowed: Options that may stand here, `loss` and `with` as well.

        Raises:
            InputError: There is no such option, or its value is of the wrong type.
        """
        self.only(allowed)
        plain = {key: value for key, value in self.content.items() if key not in ("loss", "with")}
        try:
            parsed = _parser(kind).parse_object(plain)
        except InputError as error:
            raise self.error(f"cannot be used: {error}") from error
        return {key: parsed[key] if key in plain else value for key, value in self.content.items()}


def typed_methods(section: Section, options: dict[str, Any]) -> dict[str, Any]:
    """Return options with those of `loss` and `with` looked at.

    Args:
        section: Where they stand.
        options: The options, in which `loss` is a mapping with a name.

    Raises:
        InputError: A method does not exist, or has no such option.
    """
    added = options.get("with", [])
    if not isinstance(added, list):
        raise section.error(f"is {added!r}; it has to be a list, such as [{{name: ReviewKD}}].", "with")
    try:
        typed = {**options, "loss": _typed(options["loss"], "under `loss`")}
        build_loss(typed["loss"])
        if added:
            typed["with"] = [_typed(each, "under `with`") for each in added]
            for each in typed["with"]:
                build_added(each)
    except InputError as error:
        raise section.error(f"cannot be used: {error}") from error
    return typed


def typed_above(section: Section, own: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Return options with those of `loss` and `with` in their types, looked at as they lie over others.

    Args:
        section: Where they stand.
        own: The options.
        below: Those that they lie over, such as a method's; of these nothing is returned.

    Raises:
        InputError: As `typed_methods`.
    """
    typed = typed_methods(section, merged(below, own))
    kept = _as_written(own, typed)
    if "loss" in own:
        kept["loss"] = _as_written(own["loss"], typed["loss"])
    return kept


def _as_written(own: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
    """Return options with their types, where these change a value: 2 stays 2, which is what reports show."""
    return {key: value if value == typed[key] else typed[key] for key, value in own.items()}


def _typed(spec: Any, where: str) -> dict[str, Any]:
    """Return the specification of a method with the types that its options have; nothing is added."""
    checked = checked_method(spec, where)
    return {key: checked[key] for key in spec}


@lru_cache(maxsize=3)
def _parser(kind: type) -> Parser:
    verb = {DistillConfig: "distill", TrainConfig: "train", CacheConfig: "cache"}[kind]
    parser = Parser(prog=f"cmkd {verb}", add_help=False)
    parser.add_class_arguments(kind, as_group=False, skip={"loss", "with_", "path", "verify"})
    return parser


class _Loader(yaml.SafeLoader):
    """YAML in which no key may stand twice: the first one would be lost without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As they are written: what `<<` brings in is mixed with them later, and may be said anew beside it.
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(
                        None, None, f"found the key {key.value!r} twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def read_file(file: Path) -> Section:
    """Return the content of a grid's file.

    Raises:
        InputError: It cannot be read as YAML, or holds no mapping.
    """
    try:
        with file.open(encoding="utf-8") as opened:
            content = yaml.load(opened, _Loader)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from None
    return Section(file, "", content)
