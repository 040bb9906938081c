"""CRD: which of many images is the one that the teacher saw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.losses.base import check_count, check_number
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers, Trial
from cmkd.losses.features.shaping import unit

# Up to so many images for each negative, scoring all of them takes less memory than copying those drawn.
_SCORES_ALL = 16
_GOLDEN = 0x9E3779B97F4A7C15


class CRDLoss(FeatureLoss):
    r"""CRD (Tian et al. 2020): contrast of the embeddings of an image against remembered ones of others.

    With $P(i, j) = e^{v_i^\top m_j / \tau} / Z$ for the embedding $v_i$ of an image by one network and the
    remembered $m_j$ of the other, and $q = K / M$ for $K$ negatives among $M$ images, the term is the mean
    over images of $-\log \frac{P(i, i)}{P(i, i) + q} - \sum_{k=1}^K \log \frac{q}{P(i, j_k) + q}$, for
    student against teacher plus teacher against student: Contrastive Representation Distillation (arXiv
    1910.10699), eq. 18. Both networks' pooled features are embedded linearly and divided by their length.
    After each step in training mode the entries of the batch become $m \leftarrow \mu m + (1 - \mu) v$,
    divided by its length. $Z$ is set from the first batch.

    The $M$ images are those that are trained on: none that is held out is remembered or drawn. Negatives are
    drawn from those of other classes, as by the published data loader, which draws without replacement where
    there are enough; this draws with replacement, and counts the others more in place of what it draws of the
    image's own class. The classes are those that `build` is given; without them they are learnt as the images
    come by, and until an image has come it may be drawn for one of its own class. With no classes at all only
    the image itself is left out.

    Banks, classes, $Z$ and the place in the sequence of random draws belong to the state of this module, so
    that a run that is resumed draws the same. Every process has to see the whole batch, which keeps the banks
    of all alike. The indices of a batch should differ. The gradient cannot be differentiated again. Up to
    $M = 16 K$ a step scores all $M$ images for each of its $N$, $N M$ numbers several times over; beyond that
    it copies the $N K$ entries that it drew, of `width` numbers each.

    Args:
        width: Length of the embeddings.
        negatives: $K$.
        temperature: $\tau$.
        momentum: $\mu$.
        weight: Factor of the term.
        student_layers: Name of the student's layer, in a list; None takes the pooled embedding.
        teacher_layers: Name of the teacher's layer.
    """

    needs_indices = True
    student_bank: Tensor
    teacher_bank: Tensor
    rows: Tensor
    labels: Tensor
    log_z: Tensor

    def __init__(
        self,
        *,
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        weight: float = 0.8,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, student_layers=student_layers, teacher_layers=teacher_layers)
        check_count("width", width)
        check_count("negatives", negatives)
        check_number("temperature", temperature, positive=True)
        check_number("momentum", momentum, at_most=1.0)
        self.width = width
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum

    @property
    def across_batch(self) -> bool:
        """Yes: all processes have to remember the same."""
        return True

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the pooled embedding."""
        return [layers.pooled]

    def make(self, trial: Trial) -> None:
        """Make the embeddings and the memory."""
        if len(trial.student) != 1:
            raise InputError(f"CRD contrasts one layer, not {len(trial.student)}: name one of each network.")
        assert trial.num_samples is not None  # build has looked
        self.of_student = nn.Linear(trial.student[0][0].numel(), self.width)
        self.of_teacher = nn.Linear(trial.teacher[0][0].numel(), self.width)
        # The length of a random entry is 1 on average.
        bound = math.sqrt(3 / self.width)
        remembered, labels = _remembered(trial, trial.num_samples)
        rows = torch.full((trial.num_samples,), -1)
        rows[remembered] = torch.arange(len(remembered))
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, torch.empty(len(remembered), self.width).uniform_(-bound, bound))
        self.register_buffer("rows", rows)
        self.register_buffer("labels", labels)
        self.register_buffer("log_z", torch.full((2,), -math.inf))
        self._seed, self._step = int(torch.randint(2**62, ())), 0

    def get_extra_state(self) -> Tensor:
        """Return the place in the sequence of random draws, which is kept off the device."""
        return torch.tensor([getattr(self, "_seed", 0), getattr(self, "_step", 0)])

    def set_extra_state(self, state: Tensor) -> None:
        """Go to that place."""
        self._seed, self._step = state.tolist()

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the two contrasts, and remember the embeddings."""
        assert batch.indices is not None  # forward has looked
        rows = self._rows(batch.indices)
        student = unit(self.of_student(batch.student[0].flatten(1)))
        teacher = unit(self.of_teacher(batch.teacher[0].flatten(1)))
        drawn, counts = self._draw(rows, batch.target)
        against_teacher, z_student = self._contrast(student, self.teacher_bank, rows, drawn, counts, 0)
        against_student, z_teacher = self._contrast(teacher, self.student_bank, rows, drawn, counts, 1)
        if self.training:
            self._remember(rows, student.detach(), teacher.detach(), batch.target)
            self.log_z = torch.stack([z_student, z_teacher])
            self._step += 1
        return against_teacher + against_student

    def _rows(self, indices: Tensor) -> Tensor:
        """Return the rows of the banks that hold these images."""
        size = len(self.rows)
        # Elsewhere the answer would have to be waited for.
        looks = indices.device.type == "cpu"
        if looks and not 0 <= int(indices.min()) <= int(indices.max()) < size:
            raise InputError(
                f"indices go from {int(indices.min())} to {int(indices.max())}, but there are {size} images: "
                "pass build the number of training images."
            )
        rows = self.rows[indices]
        if looks and int(rows.min()) < 0:
            raise InputError(
                f"image {int(indices[rows.argmin()])} is none of those that are remembered: pass build all "
                "that are trained on as trained_on."
            )
        return rows

    def _draw(self, rows: Tensor, target: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Return the negatives (N, K) and how often each counts; or None and that for all images (N, M)."""
        size, shape = len(self.labels), (len(rows), self.negatives)
        generator = torch.Generator(rows.device).manual_seed((self._seed + self._step * _GOLDEN) % 2**63)
        drawn = torch.randint(size, shape, generator=generator, device=rows.device)
        everything = torch.arange(size, device=rows.device)
        scores_all = size <= _SCORES_ALL * self.negatives
        if scores_all:
            counts = self.student_bank.new_zeros(len(rows), size)
            counts.scatter_add_(1, drawn, counts.new_ones(()).expand(shape))
        else:
            counts = self.student_bank.new_ones(shape)
        candidates = everything if scores_all else drawn
        alike = candidates == rows[:, None]
        if target is not None:
            alike |= self.labels[candidates] == target[:, None]
        counts = counts.masked_fill(alike, 0.0)
        counts *= self.negatives / counts.sum(1, keepdim=True).clamp(min=1.0)
        return (None if scores_all else drawn), counts

    def _contrast(
        self, anchors: Tensor, bank: Tensor, rows: Tensor, drawn: Tensor | None, counts: Tensor, side: int
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of anchors (N, D) against a bank (M, D), and log Z."""
        own = (anchors * bank[rows]).sum(1, keepdim=True) / self.temperature
        with torch.no_grad():
            if drawn is None:
                others = anchors @ bank.T / self.temperature
            else:
                entries = bank[drawn]
                others = (entries @ anchors.unsqueeze(2)).squeeze(2) / self.temperature
            log_z = self.log_z[side] if self._step > 0 else self._first_log_z(own, others, counts)
            # The published code adds 1e-7 to each denominator; logarithms need no such help.
            shift = log_z + math.log(self.negatives / len(bank))
            odds = others - shift
            against = (counts * F.softplus(odds)).sum(1)
            shares = counts * odds.sigmoid() / self.temperature
            slope = shares @ bank if drawn is None else (shares.unsqueeze(1) @ entries).squeeze(1)
        # The slope is taken here and now, so that the backward pass needs the banks no more, which the update
        # overwrites. The difference is zero, its gradient is the slope.
        against = against + ((anchors - anchors.detach()) * slope).sum(1)
        return (F.softplus(shift - own).squeeze(1) + against).mean(), log_z

    @torch.no_grad()
    def _first_log_z(self, own: Tensor, others: Tensor, counts: Tensor) -> Tensor:
        """Return the logarithm of M times the mean of what the first batch has for `exp(v m / tau)`."""
        exponents = torch.cat([own, others + counts.log()], dim=1)
        count = len(own) * (self.negatives + 1)
        return exponents.logsumexp((0, 1)) + math.log(len(self.labels) / count)

    @torch.no_grad()
    def _remember(self, rows: Tensor, student: Tensor, teacher: Tensor, target: Tensor | None) -> None:
        for bank, new in ((self.student_bank, student), (self.teacher_bank, teacher)):
            entries = unit(self.momentum * bank[rows] + (1 - self.momentum) * new)
            bank.index_copy_(0, rows, entries.to(bank.dtype))
        if target is not None:
            self.labels.index_copy_(0, rows, target)


def _remembered(trial: Trial, size: int) -> tuple[Tensor, Tensor]:
    """Return which of so many images are remembered, and their classes, -1 where these are not known."""
    images = torch.arange(size) if trial.trained_on is None else trial.trained_on.cpu()
    if len(images) == 0 or not 0 <= int(images.min()) <= int(images.max()) < size:
        raise InputError(
            f"trained_on has {len(images)} images, which have to be some of 0 to {size - 1}: num_samples is "
            f"{size}, the number of images in the training data."
        )
    if trial.targets is None:
        return images, torch.full_like(images, -1)
    if len(trial.targets) != size:
        raise InputError(
            f"targets has {len(trial.targets)} classes for {size} images: give those of all, held out or not."
        )
    return images, trial.targets.cpu().long()[images]
