"""Options as a file may have them: of any type."""

import inspect

import numpy as np
import pytest
import torch

from cmkd.errors import InputError
from cmkd.losses import KDLoss, available, available_on_features, resolve
from cmkd.losses.features import FitNetLoss


def is_number(default):
    return isinstance(default, (int, float)) and not isinstance(default, bool)


NUMBERS = [
    pytest.param(kind, option, id=f"{name}-{option}")
    for name, kind in {**available(), **available_on_features()}.items()
    for option, parameter in inspect.signature(kind).parameters.items()
    if is_number(parameter.default) or option == "rank_softness"
]


@pytest.mark.parametrize(("kind", "option"), NUMBERS)
def test_what_is_no_number_is_refused_by_name(kind, option):
    wrong = ["abc", [1.0], {}] if option == "rank_softness" else ["abc", [1.0], True, None]
    for value in wrong:
        with pytest.raises(InputError) as refused:
            kind(**{option: value})
        assert option.removeprefix("rank_") in str(refused.value)
        assert repr(value) in str(refused.value)


def test_numbers_of_other_libraries_are_numbers():
    logits, teacher_logits = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    expected = KDLoss(temperature=2.0)(logits, teacher_logits).item()
    for two in (2, np.float32(2), np.float64(2), torch.tensor(2.0)):
        assert KDLoss(temperature=two)(logits, teacher_logits).item() == pytest.approx(expected)


@pytest.mark.parametrize("layers", ["layer2", 2, [2], [], [None]], ids=str)
def test_layers_are_a_list_of_names(layers):
    with pytest.raises(InputError, match=r"teacher_layers is .*lists of names") as refused:
        FitNetLoss(student_layers=["layer2"], teacher_layers=layers)
    assert repr(layers) in str(refused.value)


def test_a_method_is_named_by_text():
    with pytest.raises(InputError, match="not by 3"):
        resolve(3)
