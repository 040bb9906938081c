"""cmkd: knowledge distillation that keeps the teacher's values and its ranking of the classes.

`from cmkd import CMKDLoss` needs torch and nothing else; everything heavier loads when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmkd import functional, losses
from cmkd.errors import InputError
from cmkd.losses import (
    CMKDLoss,
    DenseLoss,
    DISTLoss,
    DKDLoss,
    KDLoss,
    TokenLoss,
    cmkd_loss,
    dist_loss,
    dkd_loss,
    kd_loss,
)

if TYPE_CHECKING:
    from cmkd.hub import from_pretrained, push_to_hub

__version__ = "0.1.0"

__all__ = [
    "CMKDLoss",
    "DISTLoss",
    "DKDLoss",
    "DenseLoss",
    "InputError",
    "KDLoss",
    "TokenLoss",
    "__version__",
    "cmkd_loss",
    "dist_loss",
    "dkd_loss",
    "from_pretrained",
    "functional",
    "kd_loss",
    "losses",
    "push_to_hub",
]


def __getattr__(name: str) -> Any:
    if name in ("from_pretrained", "push_to_hub"):
        from cmkd import hub

        return getattr(hub, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
