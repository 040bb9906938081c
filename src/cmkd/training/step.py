"""What one training step computes, as one module: on one device, copied to several, or spread over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cmkd.errors import InputError
from cmkd.losses.features import Outputs
from cmkd.models.capture import Capture
from cmkd.training.config import RunConfig
from cmkd.training.objective import Objective
from cmkd.training.optim import build_optimizer


class TrainingStep(nn.Module):
    """Images to the loss: everything that has parameters to train.

    Args:
        student: Network to train.
        objective: Task loss and distillation losses.
        layers: The student's layers whose features the losses compare.
    """

    def __init__(self, student: nn.Module, objective: Objective, *, layers: Sequence[str] = ()) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self._capture = Capture(student, layers) if layers else None

    def forward(
        self,
        images: Tensor,
        teacher: Tensor | Outputs | None,
        targets: Tensor,
        fade: float = 1.0,
        indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return loss, student logits `(B, C)` and the parts of the loss; see `Objective.forward`."""
        answer: Tensor | Outputs = self.student(images) if self._capture is None else self._capture(images)
        loss, parts = self.objective(answer, teacher, targets, fade=fade, indices=indices)
        return loss, answer.logits if isinstance(answer, Outputs) else answer, parts


class Trained:
    """A training step and its optimiser.

    Args:
        step: The step, on the accelerator's device.
        config: The run's options.
        accelerator: Device, precision and processes.
        unused_parameters: Whether parameters of the student have no part in its answer.

    Attributes:
        run: Called like the step.
        optimizer: Its optimiser.
    """

    def __init__(
        self,
        step: TrainingStep,
        config: RunConfig,
        accelerator: Accelerator,
        *,
        unused_parameters: bool = False,
    ) -> None:
        self.step = step
        self.scaler = accelerator.scaler
        self.run, self.optimizer = self._prepare(config, accelerator, unused_parameters)
        if config.compile is not None:
            self.run = _compiled(self.run, config.compile)

    def _prepare(
        self, config: RunConfig, accelerator: Accelerator, unused_parameters: bool
    ) -> tuple[Callable[..., tuple[Tensor, Tensor, dict[str, Tensor]]], AcceleratedOptimizer]:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self.step, _own_buffers(self.step)
        )
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            gradient_as_bucket_view=True, find_unused_parameters=unused_parameters
        )
        return accelerator.prepare(self.step, build_optimizer(self.step, config))

    def student(self) -> nn.Module:
        """Return the student with its present weights; every process has to ask for it."""
        return self.step.student

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores, whole in the main process; every one has to ask for it."""
        state = {"trained": self.step.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state if self.scaler is None else {**state, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore weights, optimiser and loss scale."""
        self.step.load_state_dict(state["trained"])
        with kept_kernels(self.optimizer):
            self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def _own_buffers(step: nn.Module) -> list[str]:
    """Return the buffers that need not be the main process's at every step.

    The running statistics of batch norm are read in validation alone, and made the same before it: the
    processes would wait for each other once more in every step. Those of the losses are alike in all, or
    are made so after an epoch, and a memory bank is too large to be sent around.
    """
    running = {
        f"{name}.{buffer}"
        for name, module in step.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer, _ in module.named_buffers(recurse=False)
    }
    return [name for name, _ in step.named_buffers() if name in running or name.startswith("objective.")]


@contextmanager
def kept_kernels(optimizer: AcceleratedOptimizer) -> Iterator[None]:
    """Keep how an optimiser computes while its state is loaded: that is for the tensors that it has now."""
    kernels = ("fused", "foreach")
    before = [{name: group[name] for name in kernels} for group in optimizer.param_groups]
    yield
    for group, own in zip(optimizer.param_groups, before, strict=True):
        group.update(own)


def _compiled(run: Callable[..., Any], mode: str) -> Callable[..., Any]:
    compiled = torch.compile(run, mode=mode)

    def step(*arguments: Any) -> Any:
        # What a replayed graph returned before may be overwritten: the loop has read it.
        torch.compiler.cudagraph_mark_step_begin()
        try:
            return compiled(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            said, *more = (str(error).strip() or type(error).__name__).splitlines()
            reason = f"{said} {more[0]}" if said.endswith(":") and more else said
            raise InputError(
                f"--compile {mode} failed: {reason.rstrip('.')}. It needs a C++ compiler "
                "(on a GPU Triton, too) and a network that can be compiled; or leave it out."
            ) from error

    return step
