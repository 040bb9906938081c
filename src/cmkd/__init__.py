"""cmkd: knowledge distillation that keeps the teacher's values and its ranking of the classes.

`from cmkd import CMKDLoss` needs torch and nothing else; everything heavier loads when it is used.
"""

from cmkd import functional, losses
from cmkd.errors import InputError
from cmkd.losses import (
    CMKDLoss,
    DISTLoss,
    DKDLoss,
    KDLoss,
    cmkd_loss,
    dist_loss,
    dkd_loss,
    kd_loss,
)

__version__ = "0.1.0"

__all__ = [
    "CMKDLoss",
    "DISTLoss",
    "DKDLoss",
    "InputError",
    "KDLoss",
    "__version__",
    "cmkd_loss",
    "dist_loss",
    "dkd_loss",
    "functional",
    "kd_loss",
    "losses",
]
