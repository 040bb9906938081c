"""Figures drawn from what was measured of finished runs in detail: logits, features, decisions, corruptions.

Every module has a function `sections(sources)` that returns its figures; what is not there says so in place.
"""

from __future__ import annotations

from cmkd.report.measured import (
    by_class,
    calibrated,
    costs,
    embedding,
    example,
    hardness,
    matrices,
    robust,
    slices,
    strength,
)
from cmkd.report.measured.sources import Sources, find_sources
from cmkd.report.sections import Section

#: In the order of the page.
_FIGURES = (strength, matrices, example, hardness, slices, embedding, calibrated, robust, by_class, costs)

__all__ = ["Sources", "find_sources", "measured_sections"]


def measured_sections(sources: Sources) -> list[Section]:
    """Return all figures that need details of the runs."""
    return [section for figure in _FIGURES for section in figure.sections(sources)]
