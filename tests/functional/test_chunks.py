"""The definition on some rows at a time."""

import torch

from cmkd.functional.chunks import compute_in_chunks
from cmkd.functional.definition import TermOptions


def test_the_gradient_of_float16_is_taken_in_float32():
    """Small factors, as those of a large batch, leave entries of about 1e-9, which float16 has not."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 20, 2, generator=generator).half() for _ in "st")
    weights = (torch.full((3, 2), 1e-8), torch.full((3, 2), 1e-8))
    _, slope = compute_in_chunks(student, teacher, weights, TermOptions(), None, gradient=True)
    wide = [x.double() for x in (student, teacher)]
    _, expected = compute_in_chunks(*wide, weights, TermOptions(), None, gradient=True)
    assert slope.dtype == torch.float32
    torch.testing.assert_close(slope.double(), expected, rtol=1e-3, atol=1e-12)
