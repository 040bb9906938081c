"""A grid's YAML file, read and checked before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cmkd import losses
from cmkd.bench.sections import (
    CACHE,
    CACHED,
    DISTILL,
    METHOD,
    SHARED,
    TRAIN,
    Section,
    read_file,
    typed_above,
    typed_methods,
)
from cmkd.bench.spec import Pair, Spec, Teacher, Tuning, merged
from cmkd.errors import InputError
from cmkd.files import at_home
from cmkd.training.cache_config import CacheConfig
from cmkd.training.config import DistillConfig, TrainConfig

_Config = TypeVar("_Config", TrainConfig, DistillConfig, CacheConfig)

_KEYS = (
    *("name", "options", "teachers", "teacher_options", "cache", "students", "pairs"),
    *("methods", "seeds", "tuning"),
)
_GIVEN = ("network", "weights", "mean", "std", "image_size")


def read_spec(file: str | Path) -> Spec:
    """Read the file of a grid.

    Args:
        file: The YAML file.

    Returns:
        The grid; every option is known and of the right type, alone and together with the others.

    Raises:
        InputError: Something in the file cannot be used; the message says where it stands and what may.
    """
    top = read_file(at_home(file))
    top.only(_KEYS)
    name = top.content.get("name", top.file.stem)
    if not isinstance(name, str) or not name:
        raise top.error(f"is {name!r}; it has to be a name.", "name")
    options = top.section("options").options(DistillConfig, DISTILL)
    options, cache = _cache(top, options)
    teachers = _teachers(top, options)
    methods = _methods(top, cached=cache is not None)
    pairs = _pairs(top, teachers, methods, cached=cache is not None)
    spec = Spec(name, options, teachers, cache, pairs, methods, top.seeds("seeds"), None)
    if "tuning" in top:
        spec = replace(spec, tuning=_tuning(top.section("tuning"), spec))
    _try_out(top, spec)
    return spec


def _cache(top: Section, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the options of the cells and those of the caches, which see the same pixels."""
    if "cache" not in top or top.content["cache"] is False:
        return options, None
    section = top.section("cache")
    cache = {"views": 1, **section.options(CacheConfig, CACHE)}
    if "views" in options:
        raise top.error("is told by `cache.views`, as the grid has caches; leave it out.", "options.views")
    _tried(section, CacheConfig, {"path": "", "teacher": "", **cache})
    seeds = {each["augment_seed"] for each in (options, cache) if each.get("augment_seed") is not None}
    if len(seeds) > 1:
        raise section.error("is another one than `options.augment_seed`; give one of them.", "augment_seed")
    seed = {"augment_seed": seeds.pop() if seeds else 0}
    return {**options, **seed}, {**cache, **seed}


def _teachers(top: Section, options: dict[str, Any]) -> dict[str, Teacher]:
    common = {key: value for key, value in options.items() if key in SHARED}
    common |= top.section("teacher_options").options(TrainConfig, TRAIN)
    section = top.section("teachers")
    if not section.content:
        raise section.error("is empty; it has to name teachers, such as `resnet56: {epochs: 240}`.")
    _refuse_alike(section, list(section))
    teachers = {}
    for name in section:
        each = section.section(name)
        if "run" in each:
            each.only(["run"])
            if not isinstance(each.content["run"], str):
                raise each.error(f"is {each.content['run']!r}; it has to be a run folder, or `demo`.", "run")
            teachers[name] = Teacher(name, given=each.content)
        elif "network" in each:
            each.only(_GIVEN)
            if "weights" not in each:
                raise each.error("is needed: a file, `pretrained` or `random`.", "weights")
            given = Teacher(name, given=each.content)
            renamed = Section(top.file, each.where, given.options)
            renamed.options(DistillConfig, renamed.content)
            teachers[name] = given
        else:
            own = each.options(TrainConfig, TRAIN)
            teachers[name] = Teacher(name, train={"model": name, **common, "seed": 0, **own})
            _tried(each, TrainConfig, teachers[name].train or {})
    return teachers


def _methods(top: Section, *, cached: bool) -> dict[str, dict[str, Any]]:
    section = top.section("methods")
    if not section.content:
        raise section.error("is empty; it has to name methods, such as `KD: {loss: {name: KD}}`.")
    _refuse_alike(section, list(section))
    methods = {}
    known = {*losses.available(), *losses.available_on_features()}
    for name in section:
        each = section.section(name)
        options = _own_options(each, METHOD, cached=cached)
        loss = each.section("loss").content
        if "name" not in loss and name not in known:
            raise each.error(f"has no name; write {{name: CMKD}}, as {name!r} is no method itself.", "loss")
        methods[name] = typed_methods(each, {**options, "loss": {"name": name, **loss}})
    return methods


def _pairs(
    top: Section, teachers: dict[str, Teacher], methods: dict[str, dict[str, Any]], *, cached: bool
) -> list[Pair]:
    if ("students" in top) == ("pairs" in top):
        raise top.error(
            "and `pairs`: give one of them, the students of all teachers or who teaches whom.",
            "students",
        )
    if "students" in top:
        students = top.texts("students", "networks, such as [resnet20, resnet8x4]")
        _refuse_alike(top, students, "students")
        return [Pair(teacher, student) for teacher in teachers for student in students]
    pairs = []
    for number, content in enumerate(top.items("pairs", "pairs, such as {teacher: a, student: resnet20}")):
        each = Section(top.file, f"pairs[{number}]", content)
        each.only(("teacher", "student", "options", "methods"))
        teacher = each.text("teacher", teachers, "the teachers")
        student = each.content.get("student")
        if not isinstance(student, str):
            raise each.error(f"is {student!r}; it has to be a network, such as resnet20.", "student")
        options = _own_options(each.section("options"), DISTILL, cached=cached)
        own = each.section("methods")
        own.only(methods)
        of_methods = {}
        for method in own:
            section = own.section(method)
            given = _own_options(section, METHOD, cached=cached)
            of_methods[method] = typed_above(section, given, methods[method])
        pairs.append(Pair(teacher, student, options, of_methods))
    top.distinct("pairs", [(pair.teacher, pair.student) for pair in pairs])
    _refuse_alike(top, list(dict.fromkeys(pair.student for pair in pairs)), "pairs")
    return pairs


def _tuning(section: Section, spec: Spec) -> Tuning:
    section.only(("pair", "seeds", "options", "trials"))
    pair = spec.pairs[0]
    if "pair" in section:
        named = section.section("pair")
        named.only(("teacher", "student"))
        wanted = (named.content.get("teacher"), named.content.get("student"))
        found = [each for each in spec.pairs if (each.teacher, each.student) == wanted]
        if not found:
            listed = "; ".join(f"{{teacher: {each.teacher}, student: {each.student}}}" for each in spec.pairs)
            raise named.error(f"is {named.content!r}; it has to be one of the grid's: {listed}.")
        pair = found[0]
    cached = spec.cache is not None
    options = _own_options(section.section("options"), DISTILL - {"test"}, cached=cached)
    tried = section.section("trials")
    if not tried.content:
        raise tried.error("is empty; it has to be methods and what to try, such as `KD: [{loss: {tau: 2}}]`.")
    tried.only(spec.methods)
    trials: dict[str, list[dict[str, Any]]] = {}
    for method in tried:
        trials[method] = []
        for number, content in enumerate(tried.items(method, "options to try, such as [{loss: {tau: 2}}]")):
            each = Section(section.file, f"{tried.where}.{method}[{number}]", content)
            own = _own_options(each, METHOD - {"test"}, cached=cached)
            below = merged(spec.methods[method], pair.methods.get(method, {}))
            trials[method].append(typed_above(each, own, below))
    counts = {method: len(each) for method, each in trials.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{method} {count}" for method, count in counts.items())
        raise tried.error(f"gives methods unlike chances ({listed}); every one has to have as many.")
    seeds = section.seeds("seeds") if "seeds" in section else [100]
    return Tuning(pair, seeds, options, trials)


def _own_options(section: Section, allowed: frozenset[str], *, cached: bool) -> dict[str, Any]:
    """Return options of a pair, a method or a trial; what the cache decides is the whole grid's."""
    options = section.options(DistillConfig, allowed)
    for key in options:
        if cached and key in CACHED | {"views"}:
            place = "`cache`" if key in ("views", "augment_seed") else "`options`"
            raise section.error(f"is shared by all runs that use the caches; say it under {place}.", key)
    if "loss" in options and not isinstance(options["loss"], dict):
        raise section.error(f"is {options['loss']!r}; it has to read like {{name: CMKD, alpha: 8}}.", "loss")
    return options


def _refuse_alike(section: Section, names: list[str], key: str = "") -> None:
    """Refuse names that are one name to a file system that does not tell capitals from small letters."""
    seen: dict[str, str] = {}
    for name in names:
        if not name:
            raise section.error("holds an empty name.", key)
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise section.error(
                f"has {other!r} and {name!r}, which differ in capitals alone; rename one.", key
            )


def _tried(section: Section, kind: type[_Config], options: dict[str, Any], where: str = "") -> _Config:
    """Return a run's configuration, which refuses values out of range."""
    try:
        return kind(**{"with_" if key == "with" else key: value for key, value in options.items()})
    except InputError as error:
        raise section.error(f"cannot be used{where}: {error}") from error


def _try_out(top: Section, spec: Spec) -> None:
    """Try the options of all cells and trials together, and those of cells with each that may be chosen."""
    for pair in spec.pairs:
        for method, own in spec.methods.items():
            options = merged(spec.options, pair.options, own, pair.methods.get(method, {}))
            taught = {"teacher": pair.teacher, "student": pair.student}
            _tried(Section(top.file, f"methods.{method}", {}), DistillConfig, {**options, **taught})
            if spec.tuning is None:
                continue
            for number, trial in enumerate(spec.tuning.trials.get(method, [])):
                place = Section(top.file, f"tuning.trials.{method}[{number}]", {})
                if pair == spec.tuning.pair:
                    tried = merged(options, spec.tuning.options, trial)
                    if not _tried(place, DistillConfig, {**tried, **taught}).validation:
                        raise place.error(
                            "has no validation part to choose on; give `validation`, such as 0.1, there or, "
                            "for all trials, under `tuning.options`."
                        )
                cell = merged(options, trial)
                _tried(
                    place,
                    DistillConfig,
                    {**cell, **taught},
                    f" in the cells of {pair.teacher} and {pair.student}",
                )
                if method in pair.methods:  # which may have another loss there
                    typed_methods(place, cell)
