"""Losses on the tokens of texts, some of which do not count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from cmkd.errors import InputError
from cmkd.functional.logits import Reduction
from cmkd.functional.precision import float_dtype
from cmkd.functional.tracing import is_traced
from cmkd.losses.base import check_choice, check_count
from cmkd.losses.chunks import loss_in_chunks, rows_at_once
from cmkd.losses.cmkd import CMKDLoss
from cmkd.losses.token_batch import TokenBatch, check_tokens, splits, weighs_tokens
from cmkd.losses.top import TAILS, Tail, TopLogits


class TokenLoss(nn.Module):
    r"""A loss on logits, for logits `(N, T, V)` of tokens: classes last, and some tokens do not count.

    The tokens that count are the rows of one batch, and `loss` is taken of that batch, with its own
    `reduction`: `"mean"` is the mean over the tokens that count, so that a long text has more to say than a
    short one; `"none"` gives (N, T), 0 for the others. All that CMKD does across the samples of a batch, such
    as ranking their difficulties, it does across these tokens.

    Computed on a bounded number of tokens at a time, with the gradient of each chunk: beside the logits,
    their gradient is what has to be held. The result does not depend on the chunks. CMKD measures the
    difficulty of all tokens first, and weighs them then. A loss that needs the whole batch at once (DIST,
    MLKD, CMKD with `intra_weight`, or one of one's own whose `across_batch` is not False), that learns
    something itself (CTKD), or is being compiled, is computed in one piece, without that bound.

    Language models call this dimension the last one, image networks the second: the losses themselves take
    (N, C, \*), and would read (N, T, V) as T classes. That is why this is a class of its own.

    Args:
        loss: Any loss on logits, called as `loss(student_logits, teacher_logits, target)`; `CMKDLoss()` by
            default.
        ignore_index: Tokens with this target do not count; -100 is what PyTorch's cross-entropy and
            Transformers take.
        shift: Whether the logits at a token predict the next one, while the targets (and the mask) belong to
            the token itself, as labels of causal language models do in Transformers. They are moved by one
            here, and the last position of every text does not count. False where the targets are those of
            the position.
        chunk: Tokens to compute at a time; None for about 2 million logits (16 million on an accelerator).
        tail: What becomes of the classes that a teacher of `TopLogits` does not give: `"bucket"` makes one
            class of them, `"drop"` leaves them out; see docs/tokens.md.

    Example:
        >>> import torch
        >>> from cmkd.losses import KDLoss
        >>> distill = TokenLoss(KDLoss(alpha=1.0, temperature=1.0))
        >>> student, teacher = torch.zeros(1, 2, 3), torch.tensor([[[0.0, 0.0, 9.0], [5.0, 6.0, 7.0]]])
        >>> distill(student, teacher, torch.tensor([[2, -100]]))
        tensor(1.0961)
    """

    #: Where the classes of the logits are: at the end, or in the second dimension.
    classes_last: bool = True

    def __init__(
        self,
        loss: nn.Module | None = None,
        *,
        ignore_index: int = -100,
        shift: bool = False,
        chunk: int | None = None,
        tail: Tail = "bucket",
    ) -> None:
        super().__init__()
        if loss is not None and not isinstance(loss, nn.Module):
            raise InputError(f"loss is {loss!r}: pass an instance of a loss, such as cmkd.KDLoss().")
        if chunk is not None:
            check_count("chunk", chunk)
        check_choice("tail", tail, TAILS)
        self.loss = CMKDLoss() if loss is None else loss
        self.ignore_index = ignore_index
        self.shift = shift
        self.chunk = chunk
        self.tail: Tail = tail

    @property
    def task_weight(self) -> float:
        """Weight of the cross-entropy beside the loss."""
        return float(getattr(self.loss, "task_weight", 1.0))

    @property
    def across_batch(self) -> bool:
        """Whether the loss of a token depends on the other tokens."""
        return bool(getattr(self.loss, "across_batch", True))

    @property
    def reads_target(self) -> bool:
        """Whether the loss needs the class of every token."""
        return bool(getattr(self.loss, "reads_target", False))

    @property
    def reduction(self) -> Reduction:
        """That of the loss."""
        return getattr(self.loss, "reduction", "mean")

    def set_epoch(self, epoch: float) -> None:
        """Tell the loss how many epochs are done, if it changes over the run."""
        tell: Any = getattr(self.loss, "set_epoch", None)
        if tell is not None:
            tell(epoch)

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | TopLogits,
        target: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss over the tokens that count.

        Args:
            student_logits: (N, T, V), floating; or (*, V) with any dimensions before the classes.
            teacher_logits: Of the same shape, without gradient; or `TopLogits` of (N, T, K).
            target: (N, T) int64, or None; `ignore_index` where a token does not count.
            mask: (N, T) bool, True for every token that counts, such as `attention_mask.bool()`; or None.

        Returns:
            A scalar, or (N, T) for reduction `"none"`. 0 with zero gradient if no token counts. float64 if
            an input is float64, else float32.

        Raises:
            InputError: Input that does not fit; NaN and infinity at a token that counts, on CPU.
        """
        check_tokens(self.loss, student_logits, teacher_logits, target, mask, self.tail)
        kept = self._kept(student_logits, target, mask)
        if self.shift and target is not None:
            target = to_predicting_position(target, self.ignore_index)
        places = kept.nonzero(as_tuple=True)
        if not len(places[0]):
            nothing = student_logits[kept].sum(dtype=float_dtype(student_logits))
            return nothing.expand(kept.shape) if self.reduction == "none" else nothing
        batch = TokenBatch(self.loss, teacher_logits, target, self.tail, self.reduction, len(places[0]))
        step = self.chunk or rows_at_once(student_logits)
        if is_traced() or not splits(self.loss):
            rows = batch.whole(student_logits[places], places)
            if self.reduction != "none":
                return rows
            return rows.new_zeros(kept.shape).index_put(places, rows)
        share = batch.share
        if batch.count > step and weighs_tokens(self.loss):
            share = batch.weighed(student_logits, places, step)
        return loss_in_chunks(student_logits, places, share, step=step, per_row=self.reduction == "none")

    def _kept(self, student: Tensor, target: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return which positions count, (N, T)."""
        kept = torch.ones(student.shape[:-1], dtype=torch.bool, device=student.device)
        if mask is not None:
            kept = kept & mask
        if target is not None:
            kept = kept & (target != self.ignore_index)
        return to_predicting_position(kept, False) if self.shift else kept

    def extra_repr(self) -> str:
        """Show the options where the module is printed."""
        names = ("ignore_index", "shift", "chunk", "tail")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def to_predicting_position(x: Tensor, last: bool | int) -> Tensor:
    """Move what belongs to a token to the position before it, that of the logits which predict it."""
    return pad(x[..., 1:], (0, 1), value=last)
