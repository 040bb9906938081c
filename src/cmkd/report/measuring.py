"""A report with the figures that need the networks: what has not been kept of a run yet is measured."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd.errors import InputError
from cmkd.report.measured.sources import as_asked
from cmkd.report.page import write_report
from cmkd.report.records import Groups, Records, read_groups

if TYPE_CHECKING:
    from cmkd.evaluation.embedding import Layout

logger = logging.getLogger(__name__)


def report_runs(
    groups: Groups,
    out: Path,
    *,
    title: str,
    images: int = 2000,
    layout: Layout = "tsne",
    data_root: str | None = None,
    cpu: bool = False,
) -> tuple[Path, Path]:
    """Write the page of runs with all its figures, and these as files: what `cmkd report` does.

    Args:
        groups: Method -> its runs, one per seed.
        out: The page.
        title: Its title.
        images: See `measure_missing` for this and what follows.
        layout: How features are laid out.
        data_root: Folder with the data set's files.
        cpu: Stay on the CPU.

    Returns:
        The page, and the folder of the figures: `figures` in the run folder of a single run, else beside the
        page.

    Raises:
        InputError: A folder is no run, an option cannot be met, or a file cannot be written.
    """
    records = read_groups(groups)
    problems = measure_missing(records, images=images, layout=layout, data_root=data_root, cpu=cpu)
    runs = [run for each in records.values() for run in each]
    figures = (runs[0].path if len(runs) == 1 else out.parent) / "figures"
    page = write_report(
        out, groups, title=title, problems=problems, figures=figures, images=images, layout=layout
    )
    return page, figures


def measure_missing(
    records: Records,
    *,
    images: int,
    layout: Layout = "tsne",
    data_root: str | None = None,
    cpu: bool = False,
) -> dict[Path, str]:
    """Measure one finished run of every method in detail, unless one of its runs has been.

    Args:
        records: Method -> its runs.
        images: Test images to look at, at most; with 0 nothing is measured.
        layout: How features are laid out: `tsne` or `umap`.
        data_root: Folder with the data set's files, if it is not where the runs found it.
        cpu: Stay on the CPU even if there is an accelerator.

    Returns:
        Why a run could not be measured, by its folder.

    Raises:
        InputError: The number of images is negative.
    """
    from cmkd.training.details import STORED, read_details

    if images < 0:
        raise InputError(f"--images is {images}; it has to be at least 0.")
    problems: dict[Path, str] = {}
    for label, runs in records.items():
        finished = [run for run in runs if run.result is not None]
        known = [details for run in finished if (details := read_details(run.path)) is not None]
        if images == 0 or not finished or any(as_asked(each, images, layout) for each in known):
            continue
        path = finished[0].path
        if not (path / "student.safetensors").exists():
            problems[path] = "the run folder holds no weights"
            continue
        from cmkd.training.detailing import keep_details

        logger.info("measuring %s (%s) for the figures; kept in its %s", label, path, STORED)
        try:
            keep_details(path, images=images, layout=layout, data_root=data_root, cpu=cpu)
        except InputError as error:
            problems[path] = str(error).rstrip(".")
    return problems
