import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmkd import KDLoss
from cmkd.errors import InputError
from cmkd.training.building import build_added, build_loss, check_objective, made_up_batch, resolved_loss
from cmkd.training.config import DistillConfig
from cmkd.training.objective import Objective


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), torch.randn(6, 5, generator=generator), torch.arange(6) % 5


class Own(nn.Module):
    """A user's loss: a plain module with a parameter."""

    def __init__(self, *, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, student_logits, teacher_logits, target):
        return self.scale * (student_logits - teacher_logits).square().mean()


class Wrong(nn.Module):
    def forward(self, student_logits, teacher_logits, target):
        return (student_logits - teacher_logits).square()


def test_a_users_own_class_by_dotted_path(batch):
    loss = build_loss({"name": f"{__name__}.Own", "scale": 2.0})
    value, parts = Objective(loss)(*batch)
    expected = 2 * (batch[0] - batch[1]).square().mean()
    assert parts["distillation"].item() == pytest.approx(expected.item())
    assert value.item() == pytest.approx((F.cross_entropy(batch[0], batch[2]) + expected).item())


def test_an_unknown_option_is_named():
    with pytest.raises(InputError, match="alhpa"):
        build_loss({"name": "CMKD", "alhpa": 8})


def test_a_loss_that_is_no_scalar_is_found_before_training():
    with pytest.raises(InputError, match=r"Wrong returned.*finite scalar"):
        check_objective(Objective(Wrong()), *made_up_batch(5, torch.device("cpu")))


class Stubborn(nn.Module):
    def __init__(self, *, scale: float = 1.0):
        raise ValueError("nothing doing")


def test_a_class_that_cannot_be_made_is_named():
    with pytest.raises(
        InputError, match=r"Stubborn failed with the options .*2\.0.*ValueError: nothing doing"
    ):
        build_loss({"name": f"{__name__}.Stubborn", "scale": 2.0})


class Narrowed(KDLoss):
    """A user's subclass that settles an option of its parent."""

    def __init__(self, *, alpha: float = 0.5):
        super().__init__(alpha=alpha, temperature=2.0)


def test_defaults_are_filled_in_with_what_can_be_given_again():
    assert resolved_loss({"name": "KD", "alpha": 0.5}, build_loss({"name": "KD", "alpha": 0.5})) == {
        "name": "KD",
        "alpha": 0.5,
        "temperature": 4.0,
        "logit_standardization": False,
    }
    name = f"{__name__}.Narrowed"
    resolved = resolved_loss({"name": name}, build_loss({"name": name}))
    assert resolved == {"name": name, "alpha": 0.5}
    assert build_loss(resolved).temperature == 2.0


def test_a_factor_for_a_loss_that_has_none(batch):
    loss, factor = build_added({"name": "KD", "temperature": 2.0, "weight": 0.25})
    value, parts = Objective(None, added=[(loss, factor)])(*batch)
    expected = 0.25 * KDLoss(temperature=2.0)(*batch)
    assert parts["KD"].item() == pytest.approx(expected.item())
    assert value.item() == pytest.approx((F.cross_entropy(batch[0], batch[2]) + expected).item())
    own = {"name": "FitNet", "weight": 3.0}
    assert build_added(own)[0].weight == 3.0
    assert build_added(own)[1] == 1.0


@pytest.mark.parametrize("spec", ["KD", {"temperature": 2.0}, {"name": 3}, {"name": None}, None], ids=str)
def test_a_method_without_a_name_is_refused_before_anything(spec):
    with pytest.raises(InputError) as refused:
        DistillConfig(teacher="resnet8", with_=[spec])
    assert repr(spec) in str(refused.value)
    with pytest.raises(InputError):
        DistillConfig(teacher="resnet8", loss=spec)


def test_what_is_added_is_a_list():
    with pytest.raises(InputError, match=r"`with` is 'ReviewKD'.*list"):
        DistillConfig(teacher="resnet8", with_="ReviewKD")


def test_a_factor_that_is_no_number_is_named():
    with pytest.raises(InputError, match="weight of KD is 'abc'"):
        build_added({"name": "KD", "weight": "abc"})


def test_training_takes_the_mean():
    with pytest.raises(InputError, match="reduction 'sum'"):
        build_loss({"name": "KD", "reduction": "sum"})
