"""Softmax distributions at a temperature: log-probabilities, entropy, Kullback-Leibler divergence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmkd.errors import InputError
from cmkd.functional.masking import expand_mask, fill_masked
from cmkd.functional.precision import as_double, as_float, float_dtype, full_precision

# From here on the distributions are so nearly uniform that float32 loses their difference: at T = 1000 the
# divergence would be wrong by 3 %.
_HOT = 50.0


def log_probabilities(
    logits: Tensor, *, temperature: float = 1.0, dim: int = -1, mask: Tensor | None = None
) -> Tensor:
    r"""Logarithm of $\mathrm{softmax}(x / T)$, finite for all finite logits.

    Args:
        logits: Tensor of any shape. Half precision is computed and returned in float32.
        temperature: $T > 0$.
        dim: The dimension that holds the classes.
        mask: bool, True for every valid class, of a shape that broadcasts to that of the logits, such as (C,)
            or (M, C). The others have probability 0, whatever their values (NaN included), and no gradient.

    Returns:
        Tensor of the shape of `logits`; masked classes have the lowest number of its dtype.

    Raises:
        InputError: The temperature is not positive; the mask is not bool, or does not broadcast.

    Example:
        >>> import torch
        >>> log_probabilities(torch.tensor([0.0, 2.0]), temperature=2.0).exp()
        tensor([0.2689, 0.7311])
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature is {temperature}: it has to be a positive number.")
    with full_precision(logits):
        valid = expand_mask(mask, logits)
        x = fill_masked(as_float(logits), valid, dim)
        # Shifted before it is divided, or a small temperature would overflow large logits.
        shifted = (x - x.detach().amax(dim, keepdim=True)) / temperature
        lowest = torch.finfo(shifted.dtype).min
        if valid is not None:
            shifted = torch.where(valid, shifted, lowest)
        log_p = torch.log_softmax(shifted, dim)
        # -inf, where the row spans more than the floating range, would give NaN in 0 * log 0.
        log_p = log_p.clamp(min=lowest)
        return log_p if valid is None else torch.where(valid, log_p, lowest)


def entropy(logits: Tensor, *, temperature: float = 1.0, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    r"""Entropy $H(p) = -\sum_c p_c \log p_c$ of $p = \mathrm{softmax}(x / T)$, in nats.

    Args:
        logits: Tensor of any shape. Half precision is computed and returned in float32.
        temperature: $T > 0$.
        dim: The dimension that holds the C classes.
        mask: bool, True for every valid class, of a shape that broadcasts to that of the logits, such as (C,)
            or (M, C). The others have probability 0, whatever their values (NaN included), and no gradient.

    Returns:
        Tensor of that shape without `dim`, in [0, log C].

    Raises:
        InputError: The temperature is not positive; the mask is not bool, or does not broadcast.

    Example:
        >>> import torch
        >>> entropy(torch.zeros(4))
        tensor(1.3863)
    """
    with full_precision(logits):
        log_p = log_probabilities(logits, temperature=temperature, dim=dim, mask=mask)
        return -(log_p.exp() * log_p).sum(dim)


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Divergence $\mathrm{KL}(p_t \| p_s)$ of two softmax distributions at temperature $T$, in nats.

    Without the factor $T^2$ that distillation puts in front of it. Differentiable in both arguments. Above
    T = 50, where it is a small difference of large numbers, computed in float64 (not on MPS, which has none).

    Args:
        student_logits: Tensor of any shape. Half precision is computed and returned in float32.
        teacher_logits: Tensor of the same shape.
        temperature: $T > 0$, for both.
        dim: The dimension that holds the classes.
        mask: bool, True for every valid class, of a shape that broadcasts to that of the logits, such as (C,)
            or (M, C). The others have probability 0, whatever their values (NaN included), and no gradient.

    Returns:
        Tensor of that shape without `dim`, not negative up to rounding.

    Raises:
        InputError: The shapes differ, the temperature is not positive, or the mask is not bool or does not
            broadcast.

    Example:
        >>> import torch
        >>> kl_divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 2.0]), temperature=2.0)
        tensor(0.1109)
    """
    if student_logits.shape != teacher_logits.shape:
        raise InputError(
            f"student logits have shape {tuple(student_logits.shape)}, teacher logits"
            f" {tuple(teacher_logits.shape)}: a divergence needs the same shape."
        )
    dtype = torch.promote_types(float_dtype(student_logits), float_dtype(teacher_logits))
    with full_precision(student_logits):
        student, teacher = (for_temperature(x, temperature) for x in (student_logits, teacher_logits))
        log_p_student = log_probabilities(student, temperature=temperature, dim=dim, mask=mask)
        log_p_teacher = log_probabilities(teacher, temperature=temperature, dim=dim, mask=mask)
        return kl_of_log_probabilities(log_p_student, log_p_teacher, dim).to(dtype)


def for_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Return the logits in the precision that a divergence at this temperature needs."""
    return as_double(logits) if temperature > _HOT else as_float(logits)


def kl_of_log_probabilities(log_p_student: Tensor, log_p_teacher: Tensor, dim: int = -1) -> Tensor:
    """Return the divergence of two distributions given by finite log-probabilities, summed over `dim`."""
    return (log_p_teacher.exp() * (log_p_teacher - log_p_student)).sum(dim)
