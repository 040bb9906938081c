"""A training step whose weights and optimiser are spread over the processes: fully sharded data parallelism.

PyTorch's own `fully_shard` rather than Accelerate's wrapping of it, which has none for the CPU: so what runs
on GPUs is what the tests run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from cmkd.errors import InputError
from cmkd.training.config import RunConfig
from cmkd.training.optim import build_optimizer
from cmkd.training.step import Trained, kept_kernels

_WHOLE = StateDictOptions(full_state_dict=True)
_WHOLE_IN_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ShardedTrained(Trained):
    """A training step and its optimiser, each process holding a part of every tensor."""

    def _prepare(
        self, config: RunConfig, accelerator: Accelerator, unused_parameters: bool
    ) -> tuple[Callable[..., tuple[Tensor, Tensor, dict[str, Tensor]]], AcceleratedOptimizer]:
        if not hasattr(torch.cpu.Stream, "record_event") and accelerator.device.type == "cpu":
            raise InputError("--fsdp true on a CPU needs a newer PyTorch than 2.6; leave it out, or update.")
        self._device = accelerator.device
        self._whole = copy.deepcopy(self.step.student).cpu()
        for parameter in self.step.parameters():
            parameter.data = parameter.data.contiguous()  # channels last cannot be cut
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for unit in _units(self.step.student):  # what is put together at a time
            fully_shard(unit, mesh=mesh)
        fully_shard(self.step, mesh=mesh)
        # After that: the optimiser has to see the parts.
        return self.step, accelerator.prepare_optimizer(build_optimizer(self.step, config))

    def student(self) -> nn.Module:
        """Return a whole student with the present weights; every process has to ask for it."""
        weights = get_model_state_dict(self.step, options=_WHOLE)
        student = {name: value for name, value in weights.items() if name.startswith("student.")}
        # A new one for every use, so that no device holds it between epochs.
        whole = copy.deepcopy(self._whole).to(self._device)
        whole.load_state_dict({name.removeprefix("student."): value for name, value in student.items()})
        return whole.to(memory_format=torch.channels_last)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores, whole in the main process; every one has to ask for it."""
        trained, optimizer = get_state_dict(self.step, self.optimizer.optimizer, options=_WHOLE_IN_MAIN)
        state = {"trained": trained, "optimizer": optimizer}
        return state if self.scaler is None else {**state, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore weights, optimiser and loss scale, given whole to every process."""
        with kept_kernels(self.optimizer):
            set_state_dict(
                self.step,
                self.optimizer.optimizer,
                model_state_dict=state["trained"],
                optim_state_dict=self._by_name(state["optimizer"]),
                options=_WHOLE,
            )
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])

    def _by_name(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return an optimiser's state with the parameters' names, where one process numbered them."""
        names = [name for name, parameter in self.step.named_parameters() if parameter.requires_grad]
        groups = [
            {**group, "params": [names[key] if isinstance(key, int) else key for key in group["params"]]}
            for group in state["param_groups"]
        ]
        values = {names[key] if isinstance(key, int) else key: each for key, each in state["state"].items()}
        return {"state": values, "param_groups": groups}


def _units(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):  # never called themselves
            yield from _units(child)
        elif any(parameter.requires_grad for parameter in child.parameters()):
            yield child
