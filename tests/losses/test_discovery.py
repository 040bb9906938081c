import pytest
from torch import nn

from cmkd import losses
from cmkd.errors import InputError
from cmkd.losses import CELoss, CMKDLoss, KDLoss, available, resolve


def test_the_package_is_scanned():
    found = available()
    assert (found["CE"], found["CMKD"], found["KD"]) == (CELoss, CMKDLoss, KDLoss)
    assert list(found) == sorted(found)
    around = {"DistillationLoss", "TokenLoss", "DenseLoss"}  # the base, and what wraps a method
    exported = {name for name in losses.__all__ if name.endswith("Loss")} - around
    assert exported <= {kind.__name__ for kind in found.values()}


@pytest.mark.parametrize("name", ["CMKD", "CMKDLoss", "cmkd.losses.CMKDLoss", "cmkd.losses.cmkd.CMKDLoss"])
def test_all_forms_of_a_name(name):
    assert resolve(name) is CMKDLoss


def test_a_loss_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text("from torch import nn\nclass Mine(nn.Module): pass\nvalue = 3\n")
    with pytest.raises(InputError, match=r"'my_losses'.*PYTHONPATH"):
        resolve("my_losses.Mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert issubclass(resolve("my_losses.Mine"), nn.Module)
    with pytest.raises(InputError, match=r"unknown loss in my_losses 'Mime'; did you mean 'Mine'"):
        resolve("my_losses.Mime")
    with pytest.raises(InputError, match=r"my_losses\.value is not a subclass of torch\.nn\.Module"):
        resolve("my_losses.value")


def test_a_defect_in_ones_own_module_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_losses.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        resolve("broken_losses.Mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CMDK", r"unknown loss 'CMDK'; did you mean 'CMKD'.*dotted path"),
        ("cmkd", r"did you mean 'CMKD'"),
        ("zzzz", r"known: .*CE, CMKD, .*KD"),
        ("", r"unknown loss ''"),
        ("no_such_package.losses.Mine", r"no module named 'no_such_package'"),
        (".losses.Mine", r"not a dotted path"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        resolve(name)
