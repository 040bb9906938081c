"""The tokens of a batch that count: their checks, and their loss in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.functional.logits import Reduction, check_logits, common_dtype
from cmkd.losses.chunks import Places
from cmkd.losses.cmkd import CMKDLoss
from cmkd.losses.cmkd_options import CMKDOptions
from cmkd.losses.cmkd_terms import blank_unchecked, measure_difficulty, weigh_terms, weight_of
from cmkd.losses.top import Tail, TopLogits, check_top, narrow


def check_tokens(
    loss: nn.Module,
    student: Tensor,
    teacher: Tensor | TopLogits,
    target: Tensor | None,
    mask: Tensor | None,
    tail: Tail,
) -> None:
    """Raise `InputError` unless shapes, types and devices fit; values are looked at by the loss."""
    if not isinstance(student, Tensor) or not student.is_floating_point() or student.dim() < 2:
        what = tuple(student.shape) if isinstance(student, Tensor) else type(student).__name__
        raise InputError(f"student logits are {what}: pass a floating tensor with the classes last.")
    positions = student.shape[:-1]
    if isinstance(teacher, TopLogits):
        check_top(student, teacher, tail)
        if tail == "drop" and getattr(loss, "reads_target", False):
            raise InputError(
                f"{type(loss).__name__} reads the labels, which have no place with tail 'drop': a label need "
                "not be among the classes that the teacher gives. Take tail 'bucket', or a loss that does "
                "without labels."
            )
        if getattr(loss, "across_batch", True) and not weighs_tokens(loss):
            raise InputError(
                f"{type(loss).__name__} looks across the tokens, and the {teacher.values.shape[-1]} classes "
                "that the teacher gives are others at every token: take a loss on single tokens (for DIST "
                "gamma 0, for CMKD intra_weight 0; one of your own says so by across_batch = False)."
            )
    elif not isinstance(teacher, Tensor):
        raise InputError(f"teacher logits are a {type(teacher).__name__}: pass a tensor, or TopLogits.")
    elif teacher.shape != student.shape:
        raise InputError(
            f"teacher logits have shape {tuple(teacher.shape)}, student logits {tuple(student.shape)}: both "
            "have to score the same tokens over the same classes, which are last; where one vocabulary is "
            "padded, cut it: `logits[..., :V]`."
        )
    elif teacher.device != student.device:
        raise InputError(
            f"teacher logits are on {teacher.device}, student logits on {student.device}: move one of them."
        )
    flags: Sequence[tuple[str, Tensor | None, torch.dtype]] = (
        ("target", target, torch.int64),
        ("mask", mask, torch.bool),
    )
    for name, given, dtype in flags:
        if given is not None and (given.shape != positions or given.dtype != dtype):
            raise InputError(
                f"{name} is {given.dtype} {tuple(given.shape)}: logits of shape {tuple(student.shape)}, "
                f"classes last, need {dtype} {tuple(positions)}."
            )
        if given is not None and given.device != student.device:
            raise InputError(
                f"{name} is on {given.device}, the logits on {student.device}: move one of them."
            )


@dataclass(frozen=True)
class TokenBatch:
    """The tokens that count, of which the loss is computed in pieces."""

    loss: nn.Module
    teacher: Tensor | TopLogits
    target: Tensor | None
    tail: Tail
    reduction: Reduction
    count: int

    def rows(self, student: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the loss's arguments for some tokens, whose rows of the student are given, (m, V)."""
        target = None if self.target is None else self.target[places]
        if isinstance(self.teacher, TopLogits):
            top = TopLogits(self.teacher.values[places], self.teacher.indices[places])
            return narrow(student, top, target, self.tail)
        return student, self.teacher.detach()[places], target

    def whole(self, student: Tensor, places: Places) -> Tensor:
        """Return the loss of all tokens."""
        return self.loss(*self.rows(student, places))

    def share(self, student: Tensor, places: Places, here: slice) -> Tensor:
        """Return the part of the whole loss that some tokens have, none of which depends on another."""
        loss = self.whole(student, places)
        return loss * (len(student) / self.count) if self.reduction == "mean" else loss

    def weighed(self, student: Tensor, places: Places, step: int) -> _WeighedShare:
        """Measure the difficulty of all tokens, and return the part of CMKD that some of them have."""
        assert isinstance(self.loss, CMKDLoss)
        options = cast(CMKDOptions, self.loss.options)
        parts = []
        for start in range(0, self.count, step):
            where = tuple(index[start : start + step] for index in places)
            with torch.no_grad():
                mine, theirs, target = self.rows(student[where], where)
                check_logits(mine, theirs, target)
                dtype = common_dtype(mine, theirs)
                if dtype == torch.float64:
                    mine, theirs = mine.double(), theirs.double()
                mine, theirs = blank_unchecked(mine, theirs, options, None)
                parts.append(measure_difficulty(mine, theirs, target, options))
        hardness = torch.cat(parts)
        return _WeighedShare(self, options, hardness, weight_of(hardness, options))


@dataclass(frozen=True)
class _WeighedShare:
    """The part of CMKD that some tokens have, at the weights that follow from all of them."""

    batch: TokenBatch
    options: CMKDOptions
    hardness: Tensor
    weight: Tensor

    def __call__(self, student: Tensor, places: Places, here: slice) -> Tensor:
        loss = self.batch.loss
        assert isinstance(loss, CMKDLoss)
        options: CMKDOptions = {**self.options}
        if options["reduction"] == "mean":
            options["reduction"] = "sum"
            options["alpha"] = options["alpha"] / self.batch.count
        mine, theirs, target = self.batch.rows(student, places)
        weighed = self.hardness[here], self.weight[here]
        found = weigh_terms(mine, theirs, target, options, watch=loss.watch, parts=False, weighed=weighed)
        return cast(Tensor, found)


def splits(loss: nn.Module) -> bool:
    """Whether a loss can be computed on some tokens at a time, and has no gradient of its own."""
    if any(parameter.requires_grad for parameter in loss.parameters()):
        return False
    return not getattr(loss, "across_batch", True) or weighs_tokens(loss)


def weighs_tokens(loss: nn.Module) -> bool:
    """Whether all that a loss does across the batch is to spread the difficulties of CMKD over it."""
    if not isinstance(loss, CMKDLoss) or type(loss).forward is not CMKDLoss.forward:
        return False
    return loss.across_batch and loss.intra_weight == 0
