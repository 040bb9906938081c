"""What every loss on features shares: the layers it reads, its learnable parts, its checks and precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.functional.precision import full_precision
from cmkd.losses.base import check_names, check_number
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers, Outputs, Trial
from cmkd.losses.features.pairing import check_pairs, common_dtype, paired_features, partners
from cmkd.losses.method import DistillationMethod


class FeatureLoss(DistillationMethod):
    """Base of the losses on features: `loss(student: Outputs, teacher: Outputs, target=None, indices=None)`.

    The result is the distillation term alone, a scalar that holds its weight; training minimises
    `loss.task_weight * cross_entropy + loss(...)`. `cmkd.models.capture.Capture` makes the `Outputs` of any
    network. With `student_layers` and `teacher_layers` left open, everything in the `Outputs` is compared, in
    the order in which it was captured, unless `choose_layers` has applied the rule of the method.

    Features of magnitudes up to 1e7, zeros and constants among them, give finite values and gradients. Beyond
    that, squares leave float32, and FSP's fourth powers first; methods that do not depend on the scale of the
    features (AT, SP, RKD, PKT, NST) bear the whole range, up to 1e36.

    A subclass stores each argument of its `__init__` under the argument's own name and computes in `compare`.
    One that learns something makes it in `make`, which `build` calls once with the features of a trial batch;
    so the widths of the networks need not be known before. Nothing else is needed: a module in
    `cmkd.losses.features` is found by name.

    Args:
        weight: Factor of the term.
        student_layers: Names of the layers of the student, as `Capture` takes them; None leaves them to the
            rule of the method.
        teacher_layers: Names of the layers of the teacher, paired with them. A layer may be named more than
            once, to compare it with several of the other network.
    """

    #: Whether `indices` have to be given.
    needs_indices: bool = False
    #: Whether `build` has to be given the teacher's classifier.
    needs_classifier: bool = False
    #: Whether the student has to end in a projector and the teacher's classifier, as SimKD's does.
    reuses_classifier: bool = False

    def __init__(
        self,
        *,
        weight: float = 1.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__()
        check_number("weight", weight)
        check_names("student_layers", student_layers)
        check_names("teacher_layers", teacher_layers)
        if student_layers is not None and teacher_layers is not None:
            check_pairs(student_layers, teacher_layers)
        self.weight = weight
        self.student_layers = None if student_layers is None else list(student_layers)
        self.teacher_layers = None if teacher_layers is None else list(teacher_layers)
        self._is_built = False
        self._needs_two = False

    def student_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return the layers of the student that the method compares by default: the ends of all stages."""
        return layers.stages

    def teacher_rule(self, layers: NetworkLayers) -> Sequence[str]:
        """Return those of the teacher: by default found as in the student."""
        return self.student_rule(layers)

    def make(self, trial: Trial) -> None:
        """Make the learnable parts; by default there are none."""

    def compare(self, batch: FeatureBatch) -> Tensor:
        """Return the term of the loss, without its weight."""
        raise NotImplementedError(f"{type(self).__name__} does not define compare")

    def choose_layers(self, student: NetworkLayers, teacher: NetworkLayers) -> None:
        """Fill in, by the rule of the method, the layers that were left open.

        The rule names layers of both networks, which are paired from the last backwards where one has more
        stages. Where one network's layers are given, the other's are those that the rule pairs with them, so
        each has to be one of the rule's own; `layer2` may stand for `layer2:preactivation`.

        Args:
            student: The layers that the student has to offer.
            teacher: Those of the teacher.

        Raises:
            InputError: One network's layers are given, and the rule pairs none of the other's with them.
        """
        name = type(self).__name__
        of_student, of_teacher = list(self.student_rule(student)), list(self.teacher_rule(teacher))
        if self.student_layers is not None and self.teacher_layers is None:
            self.teacher_layers = partners(name, "student", self.student_layers, of_student, of_teacher)
        elif self.teacher_layers is not None and self.student_layers is None:
            self.student_layers = partners(name, "teacher", self.teacher_layers, of_teacher, of_student)
        elif self.student_layers is None:
            count = min(len(of_student), len(of_teacher))
            self.student_layers, self.teacher_layers = of_student[-count:], of_teacher[-count:]
            check_pairs(self.student_layers, self.teacher_layers)

    def build(
        self,
        student: Outputs,
        teacher: Outputs,
        *,
        num_samples: int | None = None,
        trained_on: Tensor | None = None,
        targets: Tensor | None = None,
        classifier: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        """Make the learnable parts, once, before the optimiser is given `loss.parameters()`.

        Args:
            student: What the student makes of a trial batch.
            teacher: What the teacher makes of the same batch, which should be real images: some methods
                measure the teacher on it.
            num_samples: Images in the training data; CRD needs to know.
            trained_on: Which of them are trained on, `(M,)` int64, where some are held out; None for all.
            targets: Their classes, `(num_samples,)` int64; CRD draws better with them.
            classifier: The last layer of the teacher; SRRL needs it.
            seed: Of the random numbers they start with. Nothing else changes these, and no other random
                numbers change by them; two losses of one kind that get the same seed start alike.

        Raises:
            InputError: The outputs do not hold the layers, or something is missing that the method needs.
        """
        pairs = self._pairs(student, teacher)
        if self.needs_classifier and classifier is None:
            raise InputError(
                f"{type(self).__name__} uses the teacher's classifier: pass it to build, for example "
                "`classifier=teacher.fc`."
            )
        if self.needs_indices and num_samples is None:
            raise InputError(
                f"{type(self).__name__} remembers every training image: pass build their number, "
                "`num_samples=len(dataset)`."
            )
        dtype = common_dtype(pairs)
        trial = Trial(
            student=[each.detach().to(dtype) for each, _ in pairs],
            teacher=[each.detach().to(dtype) for _, each in pairs],
            num_samples=num_samples,
            num_classes=student.logits.shape[1],
            classifier=classifier,
            trained_on=trained_on,
            targets=targets,
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            self.make(trial)
        self.to(pairs[0][0].device, dtype)
        self._needs_two = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self.modules())
        self._is_built = True

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            student: Logits and features of the student.
            teacher: Those of the teacher on the same images; no gradient flows into them.
            target: `(N,)` int64, or None.
            indices: `(N,)` int64, which images of the training data these are, or None.

        Returns:
            A scalar, computed in float32 (float64 if a feature is float64) whatever autocast is active.

        Raises:
            InputError: The input does not fit together, or `build` has not been called.
        """
        pairs = self._pairs(student, teacher)
        if not self._is_built and type(self).make is not FeatureLoss.make:
            raise InputError(
                f"{type(self).__name__} has parts to learn: call build(student, teacher) first, with the "
                "outputs of a trial batch."
            )
        if self.needs_indices and indices is None:
            raise InputError(
                f"{type(self).__name__} remembers every training image: pass indices, (N,) int64."
            )
        first = pairs[0][0]
        if self._needs_two and self.training and len(first) < 2:
            raise InputError(
                f"{type(self).__name__} normalises over the batch, which has one image: leave it out."
            )
        dtype = common_dtype(pairs)
        with full_precision(first):
            batch = FeatureBatch(
                student=[each.to(dtype) for each, _ in pairs],
                # A copy of what inference mode has made can be kept for the backward pass, the thing cannot.
                teacher=[_usable(each).detach().to(dtype) for _, each in pairs],
                target=target,
                indices=indices,
            )
            return self.weight * self.compare(batch)

    def _pairs(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        name = type(self).__name__
        return paired_features(name, student, teacher, self.student_layers, self.teacher_layers)


def _usable(x: Tensor) -> Tensor:
    return x.clone() if x.is_inference() else x
