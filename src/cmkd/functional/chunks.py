"""The correlation terms and their gradient by their definition, on a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cmkd.functional.definition import TermOptions, Terms, Weights, define_rows
from cmkd.functional.logits import as_rows

#: Values that the definition is computed on at a time, at most: its temporaries, about twenty times as many,
#: stay near the cache of a CPU. On an accelerator it takes more of them to be busy.
CHUNK = 2**18
CHUNK_ON_ACCELERATOR = 2**23
#: And no more than this part of the logits, unless they are small: the temporaries of one chunk, and the
#: gradient, then take no more than about eight times the memory of the logits.
PART = 8
SMALL = 2**15
SMALL_ON_ACCELERATOR = 2**20


def compute_in_chunks(
    student: Tensor,
    teacher: Tensor,
    weights: Weights,
    options: TermOptions,
    mask: Tensor | None,
    gradient: bool,
) -> tuple[Terms, Tensor | None]:
    """Build and leave the graph of the definition chunk by chunk."""
    samples, classes, *positions = student.shape
    slope = (
        student.new_empty(student.numel() // classes, classes, dtype=slope_dtype(student))
        if gradient
        else None
    )
    parts: list[Terms] = []
    for here, rows, other, valid in in_chunks(student, teacher, mask):
        values = None if weights[0] is None else weights[0].reshape(-1)[here]
        with torch.set_grad_enabled(gradient):
            # In the type of the slope: autograd gives a gradient in that of what it is taken by.
            leaf = rows.detach().to(slope_dtype(student)).requires_grad_(gradient)
            terms = define_rows(leaf, other, (values, weights[1].reshape(-1)[here]), options, valid)
            if slope is not None:
                slope[here] = torch.autograd.grad(terms[0].sum(), leaf)[0]
        parts.append((terms[0].detach(), None if terms[1] is None else terms[1].detach(), terms[2].detach()))
    weighted, pearson_term, spearman_term = (
        None if part[0] is None else torch.cat(part).reshape(samples, *positions)
        for part in zip(*parts, strict=True)
    )
    assert weighted is not None
    assert spearman_term is not None
    if slope is not None:
        slope = slope.reshape(samples, *positions, classes).movedim(-1, 1)
    return (weighted, pearson_term, spearman_term), slope


def slope_dtype(student: Tensor) -> torch.dtype:
    """Return what the gradient is kept in: float16 would lose the small ones of many classes."""
    return torch.float32 if student.dtype == torch.float16 else student.dtype


def in_chunks(
    x: Tensor, other: Tensor, mask: Tensor | None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
    """Yield chunks of rows, as (M, C), after the slice of all rows that each of them is."""
    most, small = (CHUNK, SMALL) if x.device.type == "cpu" else (CHUNK_ON_ACCELERATOR, SMALL_ON_ACCELERATOR)
    limit = min(most, max(small, x.numel() // PART))
    tensors = [t.expand(x.shape).reshape(*x.shape[:2], -1) for t in (x, other, mask) if t is not None]
    samples, classes = x.shape[:2]
    positions = x[0, 0].numel()
    step = max(1, limit // classes)
    for sample in range(0, samples, max(1, step // positions)):
        below = min(samples, sample + max(1, step // positions))
        for position in range(0, positions, step):
            end = min(positions, position + step)
            first, second, *flags = [as_rows(t[sample:below, :, position:end]) for t in tensors]
            rows = slice(sample * positions + position, (below - 1) * positions + end)
            yield rows, first, second, flags[0] if flags else None
