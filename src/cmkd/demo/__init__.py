"""`cmkd demo`: a real teacher, real images, and three ways to train the same student within two minutes.

The images are the embedded subset of Fashion-MNIST. The teacher ships with the package, in `teacher/`, a run
folder like any other; `scripts/train_demo_teacher.sh` is the command that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmkd.errors import InputError
from cmkd.files import write_atomic
from cmkd.report import markdown_table, save_picture, write_report
from cmkd.training import DistillConfig, RunFolder, distill

TEACHER = Path(__file__).parent / "teacher"
STUDENT = "resnet8"
DATA = "fashion-mnist-12k"

#: Every one with its defaults: nothing is tuned for the demo.
METHODS = ("CE", "KD", "CMKD")


@dataclass(frozen=True)
class Outcome:
    """What the demo leaves.

    Args:
        table: The comparison, as Markdown.
        took: A sentence on what ran, and how long.
        report: The HTML page.
    """

    table: str
    took: str
    report: Path


def demo(out: str | Path, *, epochs: int = 3, seeds: int = 1, progress: bool = True) -> Outcome:
    """Train the same student by cross-entropy, KD and CMKD with the same budget, and compare.

    Args:
        out: Folder for the runs, the table, the picture and the page; an interrupted demo goes on there.
        epochs: Epochs of every student.
        seeds: Seeds per method; with more than one the table gives mean and standard deviation.
        progress: Whether to show a bar and log the epochs.

    Returns:
        The table and where the page is.

    Raises:
        InputError: The folder cannot be used, or holds a demo with other options.
    """
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; it has to be at least 1.")
    out = Path(out)
    teacher = _teacher(out)
    groups: dict[str, list[RunFolder]] = {method: [] for method in METHODS}
    for seed in range(seeds):
        for method in METHODS:
            config = DistillConfig(
                data=DATA,
                teacher=teacher,
                student=STUDENT,
                loss={"name": method},
                epochs=epochs,
                seed=seed,
                out=str(out / f"{method.lower()}-seed{seed}"),
            )
            groups[method].append(distill(config, progress=progress))
    results = [run.read_json("result.json") for runs in groups.values() for run in runs]
    seconds = sum(result["train_seconds"] for result in results)

    title = "A ResNet-8 taught by a ResNet-20"
    took = (
        f"{DATA}, a tenth of the training images held out, {results[0]['images']:,} test images; "
        f"{epochs} epochs, {seeds} seed{'s' if seeds > 1 else ''} per method, {seconds:.0f} s of training"
    )
    table = markdown_table(groups)
    write_atomic(out / "table.md", f"{table}\n\n{took}\n")
    save_picture(out / "summary", groups, title=title)
    lead = (
        "The same student network, trained with the same images in the same order: on the labels alone (CE), "
        "with Hinton's knowledge distillation (KD), and with our reconstruction of correlation-matching "
        "knowledge distillation (CMKD). The figures are what was measured, whoever wins. The teacher was "
        "trained on the whole training set of Fashion-MNIST and has seen most of the validation images here; "
        "the test images are new to everybody."
    )
    return Outcome(table, took, write_report(out / "report.html", groups, title=title, lead=lead))


def _teacher(out: Path) -> str:
    """Return how the runs name their teacher: not by where this package lies, which is no part of a run.

    Where a folder takes that name, or will once the demo has begun, nothing is left but the path.
    """
    folder = Path("demo").absolute()
    return str(TEACHER) if folder.exists() or folder in (out.absolute(), *out.absolute().parents) else "demo"
