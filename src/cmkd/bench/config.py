"""What `cmkd bench` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cmkd.errors import InputError


@dataclass(kw_only=True)
class BenchConfig:
    """Run a grid: teachers x students x methods x seeds, as a YAML file describes it.

    Args:
        spec: The YAML file; docs/bench.md says what it may hold.
        out: Folder of the grid, where an interrupted one goes on; `runs/NAME` by default.
        dry_run: Show the cells, the time and the disk that they need, and write nothing.
        runner: Where the runs go: processes on this machine (`local`), or a Ray cluster (`ray`).
        jobs: Runs at a time; 1 on this machine by default, and as many as it has room for on a cluster.
        address: Address of the cluster, for `ray`; what RAY_ADDRESS says by default, else a new one here.
        gpus_per_cell: GPUs of a run, for `ray`; 0.25 lets four share one. 1 by default where there are any.
        cpus_per_cell: CPU cores of a run, for `ray`.
    """

    spec: str
    out: str | None = None
    dry_run: bool = False
    runner: Literal["local", "ray"] = "local"
    jobs: int | None = None
    address: str | None = None
    gpus_per_cell: float | None = None
    cpus_per_cell: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming the option.

        Raises:
            InputError: A value is outside its range, or belongs to another runner.
        """
        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"--jobs is {self.jobs}; it has to be at least 1.")
        if self.gpus_per_cell is not None and self.gpus_per_cell < 0:
            raise InputError(f"--gpus_per_cell is {self.gpus_per_cell}; it has to be at least 0.")
        if self.cpus_per_cell <= 0:
            raise InputError(f"--cpus_per_cell is {self.cpus_per_cell}; it has to be above 0.")
        for name, default in (("address", None), ("gpus_per_cell", None), ("cpus_per_cell", 1.0)):
            if self.runner == "local" and getattr(self, name) != default:
                raise InputError(f"--{name} belongs to `--runner ray`; add that, or leave it out.")
