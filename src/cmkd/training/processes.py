"""The processes that train a network together: what they tell each other, and what they do when one is lost.

A run in one process goes through the same code, where all of this does nothing.
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from cmkd import launcher
from cmkd.errors import InputError, ProcessLost
from cmkd.training import environment

T = TypeVar("T")


def random_seed(seed: int, rank: int) -> int:
    """Return the seed of a process's own draws; that of the first process is `seed` itself.

    In every process another one, as dropout that is alike in all would be one for a smaller batch. Within 32
    bits: of more, PyTorch's generator on the CPU keeps the lower ones.
    """
    return (seed + rank * 0x9E3779B1) % 2**32  # the golden ratio: far from any other run's small number


def process_state(*, cpu: bool = False) -> PartialState:
    """Return Accelerate's idea of this process, its device and the others, who are met if need be."""
    with launcher.alone():
        return PartialState(cpu=cpu)


def open_accelerator(precision: str, *, cpu: bool = False) -> tuple[Accelerator, str]:
    """Meet the other processes, if a launcher started several, and choose device and arithmetic.

    Args:
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        cpu: Stay on the CPU even if there is an accelerator.

    Returns:
        Accelerate's handle, and the precision with `auto` decided.

    Raises:
        InputError: The others cannot be met, or the device has not that arithmetic.
    """
    started = launcher.world_size()
    if started > 1 and not torch.accelerator.is_available():
        cpu = True  # Accelerate has to be told, or each process would take itself for the only one
    try:
        state = process_state(cpu=cpu)
    except (RuntimeError, ValueError) as error:
        if started == 1:
            raise _of_mpi(error) from error
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(
            f"process {launcher.number()} of {started} cannot meet the others at {where}: "
            f"{_first_line(error)}. "
            "Is the port in use (give another --main_process_port), or the address not to be reached "
            f"from {socket.gethostname()} (--main_process_ip)?"
        ) from error
    if started > 1 and state.num_processes != started:
        raise InputError(
            f"a launcher started {started} processes, but on {state.device.type} they cannot meet; add "
            "--cpu, or start one process."
        )
    try:
        precision = environment.arithmetic(precision, state.device)
    except InputError as error:
        error.told_elsewhere = launcher.number() > 0  # the options are the same everywhere
        raise
    atexit.unregister(_leave)
    atexit.register(_leave)
    mixed = "no" if precision == "fp32" else precision
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        AcceleratorState._reset_state()  # Accelerate has one precision per process, which runs may share
    return Accelerator(cpu=cpu, mixed_precision=mixed), precision


def _of_mpi(error: Exception) -> Exception:
    """Return what to raise where this process was alone and its device failed to open all the same."""
    named = [name for name in _MPI_SIZES if name in os.environ]
    if not named:
        return error
    return InputError(
        f"{named[0]}={os.environ[named[0]]} says that MPI started several processes, and they cannot meet: "
        f"{_first_line(error)}. Start them with `accelerate launch`; for one process unset {named[0]}."
    )


def _leave() -> None:
    """Let go of the other processes, and so of the threads that talk to them, before Python ends.

    A thread that is left may hold the last reference to a tensor; if it lets go of that after Python has
    ended, the process aborts. PyTorch keeps some groups itself: `launcher.leave` is sure.
    """
    if not dist.is_initialized():
        return
    _talk.cache_clear()
    dist.destroy_process_group()
    gc.collect()  # the networks of a run hold groups, and are in cycles


@dataclass
class _Ballot:
    wishes: Tensor
    cast: dist.Work


class Processes:
    """The processes of a run.

    What they tell each other goes over the network of the CPUs, whatever carries the gradients: a process
    that died is noticed there at the next step, not when a GPU's collective runs into its time limit.

    Args:
        accelerator: Accelerate's handle.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
        is_main: Whether this is the process that writes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.rank = accelerator.process_index
        self.count = accelerator.num_processes
        self.is_main = self.rank == 0
        self._ballot: _Ballot | None = None

    @property
    def _group(self) -> dist.ProcessGroup:
        return _talk(dist.group.WORLD)

    def share(self, value: T) -> list[T]:
        """Return everyone's value, in the order of the processes."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._group)
        return values

    def gather(self, value: T) -> list[T]:
        """Return everyone's value to the main process, and an empty list to the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        dist.gather_object(value, values, group=self._group)
        return values or []

    def from_main(self, value: T) -> T:
        """Return the main process's value."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, group=self._group)
        return values[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do something that may fail in some processes; then it fails in all, and one of them tells.

        What is done must not wait for the others.

        Raises:
            InputError: It failed in a process with an `InputError`: the same message for all.
        """
        failure: InputError | None = None
        try:
            yield
        except InputError as error:
            failure = error
        if self.count == 1:
            if failure is not None:
                raise failure
            return
        messages = self.share(None if failure is None else str(failure))
        failed = [number for number, message in enumerate(messages) if message is not None]
        if not failed:
            return
        message = messages[failed[0]] or ""
        if len(failed) < self.count and failed[0] != 0:
            message = f"process {failed[0]} of {self.count}: {message}"
        shared = InputError(message)
        shared.told_elsewhere = not self.is_main
        raise shared from failure

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """Return for each wish whether any process has it."""
        return tuple(any(each) for each in zip(*self.share(wishes), strict=True))

    def vote(self, *wishes: bool) -> tuple[bool, ...]:
        """Return for each wish whether any process had it when it voted last: a step late, without waiting.

        In one process there is nobody to wait for, and the wishes are those of now.
        """
        if self.count == 1:
            return wishes
        counted = tuple(False for _ in wishes)
        if self._ballot is not None:
            self._ballot.cast.wait()
            counted = tuple(bool(wish) for wish in self._ballot.wishes.tolist())
        ballot = torch.tensor(wishes, dtype=torch.uint8)
        cast = dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert cast is not None
        self._ballot = _Ballot(ballot, cast)
        return counted

    def same_buffers(self, network: nn.Module) -> None:
        """Give every process the main one's buffers, as running statistics are of its own images in each."""
        if self.count > 1:
            for buffer in network.buffers():
                # A moving average counts its steps on the CPU, which a GPU's group does not serve.
                dist.broadcast(buffer, src=0, group=self._group if buffer.device.type == "cpu" else None)

    def whole_batch(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of all processes; see `_WholeBatch` for the gradient.

        Args:
            parts: This process's rows of several tensors, each `(B, ...)`, as many as the others have. They
                travel together: what costs time is that the processes wait for each other.

        Returns:
            Of each `(count * B, ...)`, in the order of the processes.
        """
        return parts if self.count == 1 else _WholeBatch.apply(self.rank, self.count, *parts)

    def own_part(self, whole: Tensor) -> Tensor:
        """Return this process's rows of what `whole_batch` returned."""
        return whole.tensor_split(self.count)[self.rank]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn the loss of another process into an error that says so.

        Raises:
            ProcessLost: Another process cannot be reached any more.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except RuntimeError as error:
            if not _is_of_network(error):
                raise
            raise ProcessLost(
                f"process {self.rank} of {self.count} lost another one ({_first_line(error)}); what that one "
                "says is the reason. Repeat the same command to continue from the last checkpoint."
            ) from error


class _WholeBatch(torch.autograd.Function):
    """All processes' rows, and back from them the gradient of this one's.

    Every process computes the same loss of the whole batch. Its gradient by the weights is the *sum* over the
    processes of what goes through their own rows, and data parallelism takes the mean: hence the factor.
    """

    @staticmethod
    def forward(ctx: Any, rank: int, count: int, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.rank, ctx.count = rank, count
        ctx.set_materialize_grads(False)
        gathered, sent = [], []
        for part in parts:
            rows = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(count)]
            sent.append(dist.all_gather(rows, part.contiguous(), async_op=True))
            gathered.append(rows)
        for each in sent:
            assert each is not None, "every process is in the group"
            each.wait()
        whole = tuple(torch.cat(rows) for rows in gathered)
        learning = ctx.needs_input_grad[2:]
        ctx.mark_non_differentiable(
            *(each for each, learns in zip(whole, learning, strict=True) if not learns)
        )
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        own = [None if each is None else each.tensor_split(ctx.count)[ctx.rank] for each in gradients]
        return None, None, *(None if each is None else each * ctx.count for each in own)


@functools.lru_cache(maxsize=1)
def _talk(world: object) -> dist.ProcessGroup:
    """Return the group that carries words, the same one for all runs of a process."""
    # Without a limit worth the name: the first process may have a large data set to download. One that died
    # is noticed by its connection.
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    assert isinstance(group, dist.ProcessGroup), "every process is in it"
    return group


#: Where Accelerate looks for the number of processes on a CPU, beside `WORLD_SIZE`.
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

#: What PyTorch's back ends write when the other side of a connection is gone.
_LOST = re.compile(
    r"gloo/|NCCL error|NCCL communicator|Connection (closed|reset|refused)|Broken pipe|Socket Timeout"
)


def _is_of_network(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or _LOST.search(str(error)) is not None


def _first_line(error: Exception) -> str:
    """Return a message without the place in the source that it begins with, and the advice after it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*:\d+\]\s*", "", line).split(". ")[0].rstrip(".")
