"""Transformers: a `Trainer` whose classifier or language model learns from a teacher as well."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmkd.errors import InputError
from cmkd.functional.precision import as_float
from cmkd.integrations.common import check_loss, check_task_weight, freeze, logits_of, missing, tell_epoch
from cmkd.losses import TokenLoss
from cmkd.losses.tokens import to_predicting_position

try:
    from transformers import Trainer
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise missing("transformers", "transformers") from None

#: Label of what is left out: padding, special tokens, the later pieces of a word.
IGNORED = -100


class DistillationTrainer(Trainer):
    """`transformers.Trainer` that also learns from a teacher: classes of sequences or tokens, or words.

    Labels are class indices, `(N,)` for logits `(N, C)` or `(N, T)` for `(N, T, C)`. Those of a causal
    language model belong to the position before, whose logits predict the token. Positions with the label
    -100 are left out, and the others are rows of one batch:

        task_weight * cross_entropy(rows, labels) + loss(rows, teacher_rows, labels)

    The second term is computed by `cmkd.losses.TokenLoss`, in chunks of tokens.

    The cross-entropy takes `label_smoothing_factor`, and a `compute_loss_func` takes its place. With gradient
    accumulation every row of a step weighs the same, however many there are in each batch: both terms are
    multiplied by the batch's share of `num_items_in_batch`. A loss that looks across the batch
    (`loss.across_batch`) sees the batches of accumulation and the processes one by one.

    The teacher is no part of the model: it is neither saved nor trained. It stays in eval mode without
    gradients, on the device of the model and under its autocast, and is called with those inputs that its
    `forward` names. Evaluation is of the task alone, without the teacher. Logged beside `loss` are its parts
    before the weight, `task_loss` and `distillation_loss`.

    Args:
        *args: As `transformers.Trainer` has them.
        teacher: The trained classifier, of the same classes and the same tokens as the model; moved to its
            device.
        loss: Any loss on logits without parameters; `CMKDLoss()` by default.
        task_weight: Weight of the cross-entropy; by default `loss.task_weight`.
        shift_labels: Whether labels belong to the position before theirs; by default for the models whose own
            loss has it so: causal language models, those that see images among them, also inside PEFT's.
        **kwargs: As `transformers.Trainer` has them.

    Raises:
        InputError: Teacher or loss cannot be used. When it trains: labels are no class indices of the logits'
            shape, the teacher scores other tokens or classes, or `DataParallel` is at work.
    """

    def __init__(
        self,
        *args: Any,
        teacher: nn.Module,
        loss: nn.Module | None = None,
        task_weight: float | None = None,
        shift_labels: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.teacher = freeze(teacher)
        if isinstance(loss, TokenLoss):
            raise InputError(
                "loss is a TokenLoss: pass the loss inside it, this trainer knows which tokens count."
            )
        self.distillation = check_loss(loss)
        self.task_weight = check_task_weight(self.distillation, task_weight)
        super().__init__(*args, **kwargs)
        self.shift_labels = _predicts_next(self.model) if shift_labels is None else shift_labels
        self._by_token = TokenLoss(self.distillation, ignore_index=IGNORED)
        # What is computed here is a share of the whole step, so the count is wanted, and no further division;
        # and it has to be of the positions that count here.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = self.shift_labels
        if getattr(teacher, "hf_device_map", None) is None:
            self.teacher.to(self.args.device)
        self.distillation.to(self.args.device)
        self._names = _named_inputs(self.teacher)
        self._forget()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; what an earlier training has not logged is no part of this one."""
        self._forget()
        return super().train(*args, **kwargs)

    def _forget(self) -> None:
        """Count both parts of the loss from here on."""
        self._sums = torch.zeros(2, device=self.args.device)
        self._summed_from: int | None = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch as its share of the step's, in evaluation the cross-entropy alone.

        Args:
            model: The student.
            inputs: The batch, with `labels`.
            return_outputs: Whether to return what the model returned as well.
            num_items_in_batch: Rows of all batches of the step; None for those of this batch alone.

        Returns:
            The scalar loss, or a pair with the output.
        """
        if self.args.n_gpu > 1:
            raise InputError(
                f"{self.args.n_gpu} GPUs in one process: start one process for each, `torchrun "
                "--nproc_per_node N` or `accelerate launch`, or choose one by CUDA_VISIBLE_DEVICES."
            )
        inputs = dict(inputs)
        labels = inputs.pop("labels", None)
        output = model(**inputs)
        logits = logits_of(output, "student")
        labels = _check_labels(labels, logits)
        wanted = to_predicting_position(labels, IGNORED) if self.shift_labels else labels
        kept = wanted != IGNORED
        rows, target = logits[kept], wanted[kept]
        share = 1.0 if num_items_in_batch is None else len(target) / num_items_in_batch
        counts_all = self.args.average_tokens_across_devices and num_items_in_batch is not None
        # Gradients and losses are averaged over the processes: a share of the rows of all has to be a sum.
        # Processes that hold parts of one model see the same rows, and are counted once.
        processes = self.accelerator.num_processes // _parts_of_model(self) if counts_all else 1
        if self.compute_loss_func is not None:
            task = self.compute_loss_func(output, labels, num_items_in_batch=num_items_in_batch)
        elif len(target):
            smoothing = self.args.label_smoothing_factor
            task = share * F.cross_entropy(as_float(rows), target, label_smoothing=smoothing)
        else:
            task = rows.sum()  # of nothing, with a gradient
        total = task = processes * task
        if model.training:
            term = processes * share * self._term(inputs, logits, wanted) if len(target) else rows.sum()
            total = self.task_weight * task + term
            if self._summed_from is None:
                self._summed_from = self.state.global_step
            self._sums += torch.stack([task.detach().float(), term.detach().float()])
        return (total, output) if return_outputs else total

    def _term(self, inputs: dict[str, Any], logits: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean distillation loss over the positions that have a label."""
        tell_epoch(self.distillation, self.state.epoch or 0.0)
        seen = {name: value for name, value in inputs.items() if self._names is None or name in self._names}
        with torch.no_grad(), self.accelerator.autocast():
            teacher_logits = logits_of(self.teacher(**seen), "teacher")
        if teacher_logits.shape[:-1] != wanted.shape:
            raise InputError(
                f"teacher logits have shape {tuple(teacher_logits.shape)}, labels {tuple(wanted.shape)}: "
                "teacher and student have to score the same sequences, token by token if tokens are "
                "classified."
            )
        return self._by_token(logits, teacher_logits, wanted)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log what the Trainer does, beside a training loss its two parts of the same steps and processes."""
        if "loss" in logs and self._summed_from is not None:
            sums = self.accelerator.reduce(self._sums, reduction="mean")
            task, term = (sums / max(self.state.global_step - self._summed_from, 1)).tolist()
            logs = {**logs, "task_loss": task, "distillation_loss": term}
            self._forget()
        super().log(logs, *args, **kwargs)


def _predicts_next(model: nn.Module) -> bool:
    """Whether Transformers shifts the labels of a model, which PEFT may have wrapped."""
    unwrap: Any = getattr(model, "get_base_model", None)
    inner = model if unwrap is None else unwrap()
    if type(inner).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return True
    # A decoder beside an encoder is given its labels as inputs, which are shifted already.
    beside_encoder = getattr(getattr(inner, "config", None), "is_encoder_decoder", False)
    return LOSS_MAPPING.get(getattr(inner, "loss_type", None)) is ForCausalLMLoss and not beside_encoder


def _parts_of_model(trainer: Any) -> int:
    """Return how many processes share one copy of the model (tensor parallelism); older Trainers have one."""
    size: Any = getattr(trainer, "get_tp_size", None)
    return 1 if size is None else int(size())


def _check_labels(labels: Any, logits: Tensor) -> Tensor:
    if not isinstance(labels, Tensor):
        raise InputError("the batch has no labels: the column or the collator has to call them 'labels'.")
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:-1]:
        raise InputError(
            f"labels are {labels.dtype} {tuple(labels.shape)}, logits {tuple(logits.shape)}: this trainer "
            f"needs class indices, torch.int64 {tuple(logits.shape[:-1])}; regression and several labels per "
            "item need a loop of your own."
        )
    return labels


def _named_inputs(module: nn.Module) -> set[str] | None:
    """Return the names of the arguments that a network takes, None if it names none."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(module.forward).parameters
    return {name for name, item in parameters.items() if item.kind not in variadic} or None
