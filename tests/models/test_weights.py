import argparse
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cmkd.errors import InputError
from cmkd.models import build, load_weights, read_state_dict, save_weights


class Attack:
    """Would make a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def state():
    return build("resnet8", 4).state_dict()


def test_safetensors_round_trip(tmp_path, state):
    save_weights(state, tmp_path / "w.safetensors")
    other = build("resnet8", 4)
    load_weights(other, tmp_path / "w.safetensors")
    assert equal(other.state_dict(), state)
    assert equal(load_file(tmp_path / "w.safetensors"), state)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module."]
)
@pytest.mark.parametrize("key", [None, "state_dict", "model", "student", "net", "something"])
def test_what_training_codes_write(tmp_path, state, prefix, key):
    content = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    torch.save(content if key is None else {"epoch": 3, key: content, "args": {"lr": 0.1}}, tmp_path / "w.pt")
    assert equal(read_state_dict(tmp_path / "w.pt"), state)


@pytest.mark.parametrize("best", [np.float64(0.9), np.float32(0.9), np.int64(3), np.bool_(True)])
@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_numbers_beside_the_weights(tmp_path, state, best, zipped):
    torch.save(
        {"state_dict": state, "best_prec1": best}, tmp_path / "w.th", _use_new_zipfile_serialization=zipped
    )
    assert equal(read_state_dict(tmp_path / "w.th"), state)


def test_numpy_numbers_under_both_of_their_names(tmp_path, state):
    torch.save(
        {"state_dict": state, "best": np.float64(1)}, tmp_path / "w.pt", _use_new_zipfile_serialization=False
    )
    content = (tmp_path / "w.pt").read_bytes()
    old, new = b"cnumpy.core.multiarray\nscalar\n", b"cnumpy._core.multiarray\nscalar\n"
    assert old in content or new in content
    written, other = (old, new) if old in content else (new, old)
    (tmp_path / "other.pt").write_bytes(content.replace(written, other))
    assert equal(read_state_dict(tmp_path / "other.pt"), state)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle2", "pickle4", "beside"])
def test_hidden_code_does_not_run(tmp_path, how, state):
    file, attack = tmp_path / "w.pt", Attack(tmp_path / "trace")
    if how == "zip":
        torch.save(attack, file)
    elif how == "legacy":
        torch.save(attack, file, _use_new_zipfile_serialization=False)
    elif how == "beside":
        torch.save({"state_dict": state, "optimizer": attack}, file)
    else:
        file.write_bytes(pickle.dumps(attack, protocol=int(how[-1])))

    with pytest.raises(InputError, match=r"code \(\w+\.mkdir\), which was not run|Nothing in it was run"):
        read_state_dict(file)
    assert not (tmp_path / "trace").exists()
    if how == "zip":  # the file is a working attack on a reader that trusts it
        torch.load(file, weights_only=False)
        assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_options_beside_the_weights(tmp_path, state, zipped):
    options = argparse.Namespace(model="resnet8", lr_decay_epochs=[150, 180, 210], learning_rate=0.05)
    content = {
        "opt": options,
        "model": state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
    }
    torch.save(content, tmp_path / "resnet8_last.pth", _use_new_zipfile_serialization=zipped)
    assert equal(read_state_dict(tmp_path / "resnet8_last.pth"), state)


def test_code_among_the_options_does_not_run(tmp_path, state):
    options = argparse.Namespace(model="resnet8", hook=Attack(tmp_path / "trace"))
    torch.save({"opt": options, "model": state}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"contains code \(\w+\.mkdir\)"):
        read_state_dict(tmp_path / "w.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_student_of_a_distiller_is_the_student(tmp_path, state, prefix):
    teacher = build("resnet14", 4).state_dict()
    both = {f"{prefix}student.{name}": tensor for name, tensor in state.items()}
    alone = dict(both)
    both |= {f"{prefix}teacher.{name}": tensor for name, tensor in teacher.items()}
    both[f"{prefix}conv_reg.conv.weight"] = torch.ones(3)
    for content in (alone, both):
        torch.save({"epoch": 240, "model": content, "best_acc": torch.tensor(72.5)}, tmp_path / "best")
        assert equal(read_state_dict(tmp_path / "best"), state)


@pytest.mark.parametrize("beside", ["head", "student"])
def test_a_network_of_ones_own_may_call_a_part_teacher(tmp_path, beside):
    network = nn.ModuleDict({"teacher": nn.Linear(2, 3), beside: nn.Linear(3, 2)})
    save_weights(network, tmp_path / "w.safetensors")
    other = nn.ModuleDict({"teacher": nn.Linear(2, 3), beside: nn.Linear(3, 2)})
    load_weights(other, tmp_path / "w.safetensors")
    assert equal(other.state_dict(), network.state_dict())


def test_whole_network_is_called_code(tmp_path):
    torch.save(build("resnet8", 4), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"contains code \(.*CifarResNet\).*state_dict\(\)"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"epoch,loss\n1,2\n", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_no_checkpoint(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="is not a checkpoint"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_cut_off(tmp_path, name, state):
    if name == "w.pt":
        torch.save(state, tmp_path / name)
    else:
        save_weights(state, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is not a checkpoint"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "contains a list"), ({"epoch": 1, "lr": 2.0}, "'epoch', 'lr'"), ({}, "none")],
)
def test_no_weights_inside(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path / "w.pt")


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*w\.pt"):
        read_state_dict(tmp_path / "w.pt")


def test_other_network_names_the_differences(tmp_path):
    save_weights(build("resnet14", 4), tmp_path / "w.safetensors")
    network = build("resnet8", 4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError, match=r"36 unexpected \(layer1\.1\.bn1\.bias, .*, \.\.\.\)"):
        load_weights(network, tmp_path / "w.safetensors")
    assert equal(network.state_dict(), before)
    save_weights(network, tmp_path / "v.safetensors")
    with pytest.raises(InputError, match=r"missing \(layer1\.1\.conv1\.weight"):
        load_weights(build("resnet14", 4), tmp_path / "v.safetensors")


def test_other_class_count_names_both_shapes(tmp_path):
    save_weights(build("resnet8", 10), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"fc\.bias is \(10,\) in the file and \(100,\) in the network"):
        load_weights(build("resnet8", 100), tmp_path / "w.safetensors")


def test_checkpoint_older_than_the_step_counter_of_batch_norm(tmp_path, state):
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "w.pt")
    network = build("resnet8", 4)
    load_weights(network, tmp_path / "w.pt")
    assert equal(network.state_dict(), state)


def test_network_whose_own_names_have_the_prefix(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(3, 2)

    first, second = Wrapped(), Wrapped()
    save_weights(first, tmp_path / "w.safetensors")
    assert set(load_file(tmp_path / "w.safetensors")) == {"model.weight", "model.bias"}
    load_weights(second, tmp_path / "w.safetensors")
    assert equal(first.state_dict(), second.state_dict())


def test_names_of_a_wrapped_network_are_saved_without_the_wrapper(tmp_path):
    save_weights(nn.ModuleDict({"module": nn.Linear(3, 2)}), tmp_path / "w.safetensors")
    assert set(load_file(tmp_path / "w.safetensors")) == {"weight", "bias"}


def test_shared_and_channels_last_tensors(tmp_path):
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    state = {"one": weight, "same": weight, "row": weight[0]}
    save_weights(state, tmp_path / "w.safetensors")
    assert equal(read_state_dict(tmp_path / "w.safetensors"), state)


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot write .*w\.safetensors: (Not a directory|File exists)"):
        save_weights({"a": torch.zeros(1)}, tmp_path / "file" / "w.safetensors")


def test_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    save_weights({"a": torch.zeros(1)}, tmp_path / "w.safetensors")

    def no_space(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", no_space)
    with pytest.raises(InputError, match="No space left"):
        save_weights({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    assert torch.equal(load_file(tmp_path / "w.safetensors")["a"], torch.zeros(1))
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
