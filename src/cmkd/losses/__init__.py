"""Distillation losses on logits, one method per file. Needs torch and nothing else.

Each is a function and a thin module, called as `loss(student_logits, teacher_logits, target)`:

    from cmkd import CMKDLoss

    distill = CMKDLoss()
    for images, target in loader:
        logits = student(images)
        with torch.no_grad():
            teacher_logits = teacher(images)
        task = F.cross_entropy(logits, target)
        loss = distill.task_weight * task + distill(logits, teacher_logits, target)

A loss is the distillation term alone; `loss.task_weight` is the weight its paper gives to the
cross-entropy beside it (1 for all but KD, CTKD and MLKD).
"""

from cmkd.functional.logits import Reduction
from cmkd.losses.base import DistillationLoss
from cmkd.losses.ce import CELoss
from cmkd.losses.cmkd import CMKDLoss, cmkd_loss
from cmkd.losses.cmkd_options import CMKDParts
from cmkd.losses.ctkd import CTKDLoss, ctkd_loss
from cmkd.losses.dense import DenseLoss
from cmkd.losses.discovery import available, available_on_features, resolve
from cmkd.losses.dist import DISTLoss, dist_loss
from cmkd.losses.dkd import DKDLoss, dkd_loss
from cmkd.losses.kd import KDLoss, kd_loss
from cmkd.losses.kendall import KendallLoss, kendall_loss
from cmkd.losses.listmle import ListMLELoss, listmle_loss
from cmkd.losses.mlkd import MLKDLoss, mlkd_loss
from cmkd.losses.nkd import NKDLoss, nkd_loss
from cmkd.losses.pearson import PearsonLoss, pearson_loss
from cmkd.losses.spearman import SpearmanLoss
from cmkd.losses.tokens import TokenLoss
from cmkd.losses.top import TopLogits, top_logits
from cmkd.losses.ttm import TTMLoss, ttm_loss
from cmkd.losses.wttm import WTTMLoss, wttm_loss

__all__ = [
    "CELoss",
    "CMKDLoss",
    "CMKDParts",
    "CTKDLoss",
    "DISTLoss",
    "DKDLoss",
    "DenseLoss",
    "DistillationLoss",
    "KDLoss",
    "KendallLoss",
    "ListMLELoss",
    "MLKDLoss",
    "NKDLoss",
    "PearsonLoss",
    "Reduction",
    "SpearmanLoss",
    "TTMLoss",
    "TokenLoss",
    "TopLogits",
    "WTTMLoss",
    "available",
    "available_on_features",
    "cmkd_loss",
    "ctkd_loss",
    "dist_loss",
    "dkd_loss",
    "kd_loss",
    "kendall_loss",
    "listmle_loss",
    "mlkd_loss",
    "nkd_loss",
    "pearson_loss",
    "resolve",
    "top_logits",
    "ttm_loss",
    "wttm_loss",
]
