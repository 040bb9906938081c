"""Distillation losses on features and on relations between images, one method per file. Needs torch alone.

Each is called as `loss(student, teacher, target, indices)` with the `Outputs` that a
`cmkd.models.capture.Capture` makes of any network:

    see_student = Capture(student, ["layer1", "layer2", "layer3"])
    see_teacher = Capture(teacher, ["layer1", "layer2", "layer3"])
    distill = VIDLoss()
    distill.build(see_student(images), see_teacher(images))
    optimizer = SGD([*student.parameters(), *distill.parameters()], lr=0.1)
    for images, target in loader:
        outputs = see_student(images)
        with torch.no_grad():
            taught = see_teacher(images)
        loss = F.cross_entropy(outputs.logits, target) + distill(outputs, taught, target)
"""

from cmkd.losses.features.at import ATLoss
from cmkd.losses.features.base import FeatureLoss
from cmkd.losses.features.cc import CCLoss
from cmkd.losses.features.crd import CRDLoss
from cmkd.losses.features.fitnet import FitNetLoss
from cmkd.losses.features.fsp import FSPLoss
from cmkd.losses.features.nst import NSTLoss
from cmkd.losses.features.ofd import OFDLoss
from cmkd.losses.features.outputs import FeatureBatch, NetworkLayers, Outputs, Trial
from cmkd.losses.features.pkt import PKTLoss
from cmkd.losses.features.reviewkd import ReviewKDLoss
from cmkd.losses.features.rkd import RKDLoss
from cmkd.losses.features.simkd import SimKDLoss
from cmkd.losses.features.sp import SPLoss
from cmkd.losses.features.srrl import SRRLLoss
from cmkd.losses.features.vid import VIDLoss

__all__ = [
    "ATLoss",
    "CCLoss",
    "CRDLoss",
    "FSPLoss",
    "FeatureBatch",
    "FeatureLoss",
    "FitNetLoss",
    "NSTLoss",
    "NetworkLayers",
    "OFDLoss",
    "Outputs",
    "PKTLoss",
    "RKDLoss",
    "ReviewKDLoss",
    "SPLoss",
    "SRRLLoss",
    "SimKDLoss",
    "Trial",
    "VIDLoss",
]
