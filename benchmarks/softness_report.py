"""Table and pictures of what `benchmarks/softness.py` measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softness_measures import LEARNING_RATES, SHAPES, STEPS, shortfall, worst_bias

from cmkd.report.palette import LIGHT, MATPLOTLIB_MARKERS
from cmkd.report.picture import INK_SOFT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]
NAMES = {"adam": "Adam", "sgd": "SGD"}
AXES = {
    "binned": "distance of knots (std)",
    "laplace": "width b of the kernel (std)",
    "l2": "k (strength = k std / C)",
}


def defaults_table(result: dict[str, Any]) -> str:
    """Return, per method and number of classes, the default beside what the rule picks, as Markdown.

    The measures are those of the default, in the worse of the two shapes of logits; from the right of "Rule":
    Spearman correlation after 25 and 100 steps of Adam and SGD, how far that is behind the best softness of
    the method (up to 1 tolerance is fine), and what `softness_measures.py` defines.
    """
    from cmkd.functional import default_softness

    head = ["Method", "C", "Default", "Rule"]
    trained = [(optimizer, step) for step in (STEPS[0], STEPS[-1]) for optimizer in LEARNING_RATES]
    head += [f"{NAMES[optimizer]}, {step}" for optimizer, step in trained]
    head += ["Behind (tolerances)", "Bias", "No gradient", "Cosine, logits", "Cosine, softmax"]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for picked in result["picked"]:
        method, classes = picked["method"], picked["classes"]
        records = of(result, method, classes)
        default = default_softness(method, classes)
        record = next(
            (each for each in records if math.isclose(each["softness"], default, rel_tol=1e-3)), None
        )
        if record is None:
            raise LookupError(
                f"the default {default} of {method} at C = {classes} is not measured: run softness.py"
            )
        shapes = record["shapes"]
        behind = max(shortfall(shapes, [each["shapes"] for each in records]), 0.0)
        lines.append(
            [
                method,
                str(classes),
                f"{record['softness']:g}",
                f"{picked['softness']:g}",
                *(f"{_worst(record, f'{optimizer}_{step}', min):.4f}" for optimizer, step in trained),
                f"{behind:.1f}",
                f"{worst_bias(shapes):.3f}",
                f"{_worst(record, 'zero_share', max):.1%}",
                f"{_worst(record, 'cosine_logits', max):.2f}",
                f"{_worst(record, 'cosine_softmax', max):.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def trap_table(result: dict[str, Any]) -> str:
    """Return the cosines of `likeness_when_pooled`, strength by number of classes, as Markdown."""
    found = {(each["strength"], each["classes"]): each["cosine"] for each in result["trap"]}
    strengths, classes = ([*dict.fromkeys(each)] for each in zip(*found, strict=True))
    lines = [["Strength", *(f"C = {each}" for each in classes)], ["---", *["--:"] * len(classes)]]
    for strength in strengths:
        name = "1 (torchsort's default)" if strength == 1 else str(strength)
        lines.append([name, *(f"{found[strength, each]:.3f}" for each in classes)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_measures(result: dict[str, Any], path: Path) -> None:
    """Draw every measure over the softness, a column per method and a line per number of classes."""
    measures: list[tuple[str, Callable[[Record], float], bool]] = [
        *(
            (f"1 - Spearman, {step} steps of {name}", _missing(f"{optimizer}_{step}"), True)
            for step in (STEPS[0], STEPS[-1])
            for optimizer, name in NAMES.items()
        ),
        ("Bias at the optimum", lambda each: worst_bias(each["shapes"]), True),
        ("Share without gradient", lambda each: _worst(each, "zero_share", max), False),
        ("Cosine with Pearson of logits", lambda each: _worst(each, "cosine_logits", max), False),
    ]
    with _style():
        figure = _figure(11, 14.5)
        grid = figure.subplots(len(measures), len(AXES), sharey="row", sharex="col")
        for row, (title, value, logarithmic) in zip(grid, measures, strict=True):
            for axes, method in zip(row, AXES, strict=True):
                _lines(axes, result, method, value)
                if logarithmic:
                    _logarithmic(axes, "y")
                axes.set_title(f"{title}\n{method}" if axes in grid[0] else title)
        for axes, label in zip(grid[-1], AXES.values(), strict=True):
            axes.set_xlabel(label)
        _finish(figure, grid[0][0], path)


def draw_trap(result: dict[str, Any], path: Path) -> None:
    """Draw how soft ranks turn into an affine function of the logits as the softness grows."""
    with _style():
        figure = _figure(11, 3.9)
        row = figure.subplots(1, len(AXES), sharey=True)
        for axes, method in zip(row, AXES, strict=True):
            for index, classes in enumerate(_classes(result)):
                points = [
                    (each["width"], each["bend"])
                    for each in result["bend"]
                    if (each["method"], each["classes"]) == (method, classes)
                ]
                axes.plot(*zip(*points, strict=True), label=f"{classes} classes", **_look(index))
            _logarithmic(axes, "x")
            axes.set_title(method)
            axes.set_xlabel("strength (std)" if method == "l2" else AXES[method])
            axes.grid(visible=True)
            if method == "l2":
                axes.axvline(1, color=INK_SOFT, linestyle=":")
                axes.annotate(
                    "torchsort's\ndefault", (1, 1), (4, -2), textcoords="offset points", va="top", fontsize=8
                )
        row[0].set_ylabel("distance from a line in the logits,\nrelative to that of exact ranks")
        _finish(figure, row[0], path)


def of(result: dict[str, Any], method: str, classes: int) -> list[Record]:
    """Return the records of one method and number of classes, by rising softness."""
    return [each for each in result["records"] if (each["method"], each["classes"]) == (method, classes)]


def _lines(axes: Axes, result: dict[str, Any], method: str, value: Callable[[Record], float]) -> None:
    from cmkd.functional import RankMethod, default_softness

    for index, classes in enumerate(_classes(result)):
        records = of(result, method, classes)
        softness = [each["softness"] for each in records]
        values = [value(each) for each in records]
        axes.plot(softness, values, label=f"{classes} classes", **_look(index))
        kind: RankMethod = method  # type: ignore[assignment]
        at = min(range(len(records)), key=lambda each: abs(softness[each] - default_softness(kind, classes)))
        ring = {**_look(index), "markersize": 12, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot(softness[at], values[at], **ring)
    _logarithmic(axes, "x")
    axes.grid(visible=True)


def _logarithmic(axes: Axes, which: str) -> None:
    """Make one axis logarithmic, with plain numbers on it: 1, and where there is room 2 and 5, per decade."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    between = "25" if which == "y" and high < 100 * low else ""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else "")


def _missing(key: str) -> Callable[[Record], float]:
    # Not below what is still told from 1 in the plot.
    return lambda record: max(1 - _worst(record, key, min), 1e-5)


def _worst(record: Record, key: str, which: Callable[..., float]) -> float:
    return which(record["shapes"][shape][key] for shape in SHAPES)


def _classes(result: dict[str, Any]) -> list[int]:
    return sorted({each["classes"] for each in result["records"]})


def _look(index: int) -> dict[str, Any]:
    return {"color": LIGHT[index], "marker": MATPLOTLIB_MARKERS[index], "markersize": 5, "linewidth": 1.7}


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, facecolor="white", layout="constrained")


def _finish(figure: Figure, legend_of: Axes, path: Path) -> None:
    handles, labels = legend_of.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path.with_suffix(".png"), dpi=130, metadata={"Software": None})
