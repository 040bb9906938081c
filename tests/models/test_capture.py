import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cmkd.errors import InputError
from cmkd.losses.features import ATLoss
from cmkd.models import build
from cmkd.models.capture import Capture


class Recording(nn.Module):
    """Returns its logits as other networks do, and keeps what it computed on the way."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 5)
        self.kept = {}

    def forward(self, x):
        x = self.norm(self.stem(x))
        self.kept["norm"] = x.clone()
        x = self.relu(x)
        x = x.mean((2, 3))
        self.kept["pooled"] = x
        return self.fc(x)


def hooks_of(network):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules())


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Recording()


def test_what_is_captured_is_what_was_computed(network):
    images = torch.randn(2, 3, 8, 8)
    capture = Capture(network, ["fc:input", "norm", "stem"])
    outputs = capture(images)
    assert list(outputs.features) == ["fc:input", "norm", "stem"]
    assert torch.equal(outputs.features["fc:input"], network.kept["pooled"])
    assert torch.equal(outputs.features["stem"], network.stem(images))
    assert torch.equal(outputs.logits, network.fc(network.kept["pooled"]))


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("inference", [False, True])
def test_an_activation_in_place_does_not_change_what_came_before(network, calls, inference):
    capture = Capture(network, ["norm", "relu", "relu:input"])
    for _ in range(calls):
        with torch.inference_mode(inference):
            features = capture(torch.randn(2, 3, 8, 8)).features
        assert torch.equal(features["norm"], network.kept["norm"])
        assert torch.equal(features["relu:input"], network.kept["norm"])
        assert torch.equal(features["relu"], network.kept["norm"].relu())


def test_after_the_first_call_only_what_changes_is_copied(network):
    capture = Capture(network, ["stem", "norm"])
    given = []
    network.stem.register_forward_hook(lambda *args: given.append(args[-1]))
    network.norm.register_forward_hook(lambda *args: given.append(args[-1]))
    capture(torch.randn(2, 3, 8, 8))
    given.clear()
    features = capture(torch.randn(2, 3, 8, 8)).features
    assert features["stem"] is given[0]
    assert features["norm"] is not given[1]


def test_a_change_that_comes_late_is_noticed():
    class Moody(Recording):
        writes = False

        def forward(self, x):
            x = self.stem(x)
            return self.fc((x.relu_() if self.writes else x).mean((2, 3)))

    network = Moody()
    capture = Capture(network, ["stem"])
    capture(torch.randn(2, 3, 8, 8))
    network.writes = True
    with pytest.raises(InputError, match=r"\['stem'\] of Moody were changed in place.*call it again"):
        capture(torch.randn(2, 3, 8, 8))
    assert (capture(torch.randn(2, 3, 8, 8)).features["stem"] < 0).any()


def test_the_network_is_as_it_was_between_calls(network):
    before = copy.deepcopy(network.state_dict()).keys()
    capture = Capture(network, ["norm", "relu:preactivation"])
    assert hooks_of(network) == 0
    capture(torch.randn(2, 3, 8, 8))
    assert hooks_of(network) == 0
    with pytest.raises(RuntimeError):
        capture(torch.randn(2, 7, 8, 8))
    assert hooks_of(network) == 0
    assert network.state_dict().keys() == before


def test_gradients_flow_through_what_is_captured(network):
    features = Capture(network, ["norm"])(torch.randn(2, 3, 8, 8)).features
    features["norm"].square().sum().backward()
    assert network.stem.weight.grad.abs().sum() > 0
    assert network.fc.weight.grad is None


def test_preactivations_of_a_residual_stage():
    """In each block the shared ReLU runs twice; what counts is the sum that enters it the second time."""
    torch.manual_seed(0)
    network = build("resnet14", 10).eval()
    images = torch.randn(2, 3, 16, 16)
    capture = Capture(network, ["layer2:preactivation", "layer2"])
    capture(images)
    features = capture(images).features
    x = network.layer2[0](network.layer1(network.relu(network.bn1(network.conv1(images)))))
    block = network.layer2[1]
    expected = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + x
    torch.testing.assert_close(features["layer2:preactivation"], expected)
    assert (expected < 0).any()
    torch.testing.assert_close(features["layer2"], expected.relu())


def test_preactivation_of_a_layer_without_an_activation_is_its_output(network):
    features = Capture(network, ["stem:preactivation", "stem"])(torch.randn(2, 3, 8, 8)).features
    assert torch.equal(features["stem:preactivation"], features["stem"])


@pytest.mark.parametrize("module", [nn.ReLU(), None])
def test_an_activation_that_is_no_module_is_warned_of_once(module, caplog):
    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 3), module

        def forward(self, x):
            return F.relu(self.conv(x)) if self.act is None else self.act(self.conv(x))

    network = nn.Sequential(Stage(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    for _ in range(2):
        capture = Capture(network, ["0:preactivation", "2:preactivation"])
        for _ in range(2):
            features = capture(torch.randn(2, 3, 8, 8)).features
    assert bool((features["0:preactivation"] < 0).any()) == (module is not None)
    expected = [] if module else ["layer '0:preactivation' of Sequential ends with no activation module"]
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == expected


def test_channels_that_come_last_are_moved():
    swin = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [1, 1], [7, 7]).eval()
    plain, moved = ["features.1", "features.3"], ["features.1:channels_last", "features.3:channels_last"]
    features = Capture(swin, [*plain, *moved])(torch.randn(2, 3, 64, 64)).features
    assert [features[name].shape for name in moved] == [(2, 12, 16, 16), (2, 24, 8, 8)]
    for name, last in zip(plain, moved, strict=True):
        assert torch.equal(features[last][:, 5, 3], features[name][:, 3, :, 5])
    both = Capture(swin, ["features.1:channels_last:preactivation", "features.3:input:channels_last"])
    assert [x.shape[1] for x in both(torch.randn(2, 3, 64, 64)).features.values()] == [12, 24]
    with pytest.raises(InputError, match=r"'flatten:channels_last' of SwinTransformer gave shape \(2, 24\)"):
        Capture(swin, ["flatten:channels_last"])(torch.randn(2, 3, 64, 64))


def test_autocast_and_wrapped_networks(network, tmp_path):
    images = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Capture(network, ["stem"])(images).features["stem"].dtype == torch.bfloat16
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(network)
        outputs = Capture(wrapped, ["norm"])(images)
        (outputs.logits.sum() + outputs.features["norm"].square().sum()).backward()
        assert network.stem.weight.grad.abs().sum() > 0
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(InputError, match="use DistributedDataParallel"):
        Capture(nn.DataParallel(network), ["norm"])


def test_what_cannot_be_captured_is_named(network):
    with pytest.raises(InputError, match=r"unknown layer of Recording 'Norn'; did you mean 'norm'"):
        Capture(network, ["Norn"])
    with pytest.raises(InputError, match=r"known: avgpool, bn1, conv1, fc, layer1, layer2, layer3, relu\."):
        Capture(build("resnet56", 10), ["zzzz"])
    with pytest.raises(InputError, match=r"'norm:out'.*'norm:input' or 'norm:preactivation'"):
        Capture(network, ["norm:out"])
    with pytest.raises(InputError, match=r"ends in 'input:preactivation'"):
        Capture(network, ["norm:input:preactivation"])
    with pytest.raises(InputError, match="give a list"):
        Capture(network, "norm")
    network.unused = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"\['unused'\] of Recording were not called"):
        Capture(network, ["unused"])(torch.randn(2, 3, 8, 8))
    network.stem = nn.LSTM(8, 8)
    with pytest.raises(InputError, match="layer 'stem' gave a tuple"):
        Capture(network, ["stem"])(torch.randn(3, 8, 8))


def test_a_network_that_returns_more_than_logits():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(InputError, match=r"Two returned a tuple: wrap it"):
        Capture(Two(2, 2), [])(torch.zeros(1, 2))


def test_an_own_loop_of_ten_lines_learns():
    torch.manual_seed(0)
    images, target = torch.randn(64, 3, 8, 8), torch.arange(64) % 4
    teacher, student = build("resnet14", 4).eval(), build("resnet8", 4)
    see_student, see_teacher = (Capture(network, ["layer2", "layer3"]) for network in (student, teacher))
    distill = ATLoss()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        outputs = see_student(images)
        with torch.no_grad():
            taught = see_teacher(images)
        term = distill(outputs, taught, target)
        loss = F.cross_entropy(outputs.logits, target) + term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(term.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
