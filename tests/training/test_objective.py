import pytest
import torch
import torch.nn.functional as F

from cmkd import CMKDLoss, DISTLoss, KDLoss
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


def test_several_losses_across_the_batch_have_it_gathered_once(batch):
    class Two:  # the other process has the same rows, the other way round
        count, rank = 2, 0

        def whole_batch(self, *parts):
            gathered.append(len(parts))
            return [torch.cat([part, part.flip(0)]) for part in parts]

        def own_part(self, whole):
            return whole.tensor_split(2)[0]

    gathered = []
    added = [(DISTLoss(), 0.5), (KDLoss(), 2.0)]
    objective = Objective(CMKDLoss(intra_weight=1.0), added=added, task_weight=0.0)
    objective.share_batches(Two())
    value, parts = objective(*batch)
    assert gathered == [3]  # logits of both, and labels
    twice = [torch.cat([each, each.flip(0)]) for each in batch]
    expected = CMKDLoss(intra_weight=1.0)(*twice) + 0.5 * DISTLoss()(*twice) + 2.0 * KDLoss()(*batch)
    torch.testing.assert_close(value, expected)
    assert parts["weight"].shape == (6,)


def test_the_objective_compiles_without_graph_breaks(batch):
    objective = Objective(CMKDLoss(), added=[(KDLoss(), 0.5)])
    value, parts = torch.compile(objective, backend="eager", fullgraph=True)(*batch)
    expected, expected_parts = objective(*batch)
    torch.testing.assert_close(value, expected)
    assert parts.keys() == expected_parts.keys() >= {"task", "distillation", "pearson", "KD"}
