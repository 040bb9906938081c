import subprocess
import sys

import pytest
import torch
from torch import nn

from cmkd import CMKDLoss, DenseLoss, DKDLoss, InputError, KDLoss, TokenLoss
from cmkd.integrations.common import check_loss, check_task_weight, class_indices, freeze, logits_of
from cmkd.losses import CTKDLoss
from cmkd.losses.features import FitNetLoss

LIBRARIES = {
    "DistillationCallback": "lightning",
    "DistillationTask": "timm",
    "DistillationTrainer": "transformers",
}
WITHOUT = """
import sys
hidden = {"lightning", "pytorch_lightning", "timm", "transformers"}
import cmkd.integrations
assert not hidden & set(sys.modules)
sys.modules.update(dict.fromkeys(hidden))  # None: cannot be imported
for name in cmkd.integrations.__all__:
    try:
        getattr(cmkd.integrations, name)
    except cmkd.InputError as error:
        print(name, error)
"""


def test_only_what_is_asked_for_is_imported_and_what_is_missing_can_be_installed():
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == list(LIBRARIES)
    for line, extra in zip(lines, LIBRARIES.values(), strict=True):
        assert line.endswith(f'; run: pip install "cmkd[{extra}]"')


def test_a_name_that_is_not_there_is_an_attribute_error():
    import cmkd.integrations

    with pytest.raises(AttributeError, match="Distiller"):
        cmkd.integrations.Distiller  # noqa: B018


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (CTKDLoss(), "parameters to learn"),
        (FitNetLoss(), "compares features"),
        (KDLoss(reduction="sum"), "reduction 'sum'"),
        (KDLoss, "pass an instance"),
    ],
)
def test_losses_that_cannot_be_used_are_refused(loss, said):
    with pytest.raises(InputError, match=said):
        check_loss(loss)


def test_the_defaults_are_cmkd_and_the_weight_of_its_paper():
    assert isinstance(check_loss(None), CMKDLoss)
    assert check_task_weight(KDLoss(alpha=0.75), None) == 0.25
    assert check_task_weight(KDLoss(alpha=0.75), 0.5) == 0.5
    assert check_task_weight(nn.MSELoss(), None) == 1.0  # of somebody else


def test_a_teacher_that_is_no_network_is_refused():
    with pytest.raises(InputError, match="teacher is a str"):
        freeze("resnet50")


def test_logits_are_found_where_libraries_put_them():
    class Output:
        logits = torch.ones(2, 3)

    assert logits_of(Output.logits, "student") is Output.logits
    assert logits_of(Output(), "student") is Output.logits
    assert logits_of({"logits": Output.logits, "loss": 0}, "student") is Output.logits
    with pytest.raises(InputError, match="the teacher returned a tuple"):
        logits_of((Output.logits,), "teacher")


def test_only_class_indices_are_targets():
    logits = torch.zeros(4, 3, 2)
    labels = torch.zeros(4, 2, dtype=torch.int64)
    assert class_indices(labels, logits, KDLoss()) is labels
    assert class_indices(labels[:, 0], logits, KDLoss()) is None
    assert class_indices(labels.float(), logits, KDLoss()) is None
    assert class_indices(None, logits, KDLoss()) is None
    assert class_indices(labels, logits, DenseLoss()) is labels
    assert class_indices(labels, logits, TokenLoss()) is None
    of_tokens = torch.zeros(4, 3, dtype=torch.int64)
    assert class_indices(of_tokens, logits, TokenLoss()) is of_tokens


def test_labels_that_are_no_class_indices_are_named_where_they_are_read():
    logits = torch.zeros(4, 3)
    mixed = torch.full((4, 3), 1 / 3)
    for loss in (DKDLoss(), CMKDLoss(difficulty="teacher_ce"), TokenLoss(DKDLoss())):
        with pytest.raises(InputError, match=r"reads the labels, .*torch\.float32 \(4, 3\).*\(4,\).*mixup"):
            class_indices(mixed, logits, loss)
    with pytest.raises(InputError, match="DKDLoss reads the labels, and no target is found in the batch"):
        class_indices(None, logits, TokenLoss(DKDLoss()))
    with pytest.raises(InputError, match="the target is a list"):
        class_indices([0, 1, 2, 0], logits, DKDLoss())
