import pytest
import torch
import torch.nn.functional as F

from cmkd import CMKDLoss, KDLoss
from cmkd.training.objective import Objective


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), torch.randn(6, 5, generator=generator), torch.arange(6) % 5


def test_labels_alone_are_the_cross_entropy(batch):
    logits, _, target = batch
    loss, parts = Objective(label_smoothing=0.1)(logits, None, target)
    assert loss == F.cross_entropy(logits, target, label_smoothing=0.1) == parts["task"]


def test_kd_brings_hintons_weights(batch):
    logits, teacher_logits, target = batch
    loss, _ = Objective(KDLoss(temperature=4.0, alpha=0.9))(*batch)
    divergence = F.kl_div(
        F.log_softmax(logits / 4, 1),
        F.log_softmax(teacher_logits / 4, 1),
        log_target=True,
        reduction="batchmean",
    )
    assert loss.item() == pytest.approx(
        (0.1 * F.cross_entropy(logits, target) + 0.9 * 16 * divergence).item(), rel=1e-5
    )


def test_the_fade_scales_the_distillation_only(batch):
    objective = Objective(KDLoss(), task_weight=1.0)
    task = F.cross_entropy(batch[0], batch[2]).item()
    whole, faded = (objective(*batch, fade=fade)[0].item() for fade in (1.0, 0.25))
    assert faded - task == pytest.approx(0.25 * (whole - task), rel=1e-5)


def test_the_parts_of_cmkd_are_reported_per_sample(batch):
    _, parts = Objective(CMKDLoss())(*batch)
    assert parts["weight"].shape == parts["pearson"].shape == parts["spearman"].shape == (6,)
    assert not any(value.requires_grad for value in parts.values())


def test_the_objective_compiles_without_graph_breaks(batch):
    objective = Objective(CMKDLoss(), added=[(KDLoss(), 0.5)])
    value, parts = torch.compile(objective, backend="eager", fullgraph=True)(*batch)
    expected, expected_parts = objective(*batch)
    torch.testing.assert_close(value, expected)
    assert parts.keys() == expected_parts.keys() >= {"task", "distillation", "pearson", "KD"}
