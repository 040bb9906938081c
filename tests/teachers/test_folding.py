import logging

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from cmkd import models
from cmkd.teachers.folding import fold_batch_norm


class Activated(nn.BatchNorm2d):
    """Batch norm with an activation, written as timm's: it asks for the shape, and calls the function."""

    def __init__(self, width):
        super().__init__(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        torch._assert(x.ndim == 4, f"{x.ndim} dimensions")
        numbers = (self.running_mean, self.running_var, self.weight, self.bias)
        return self.act(nn.functional.batch_norm(x, *numbers, self.training, self.momentum, self.eps))


class BeforeTheConvolution(nn.Module):
    """A block of a pre-activated network; only the second norm follows on a convolution."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm2d(4)
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())


class OutputUsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


class ConvolutionUsedTwice(nn.Module):
    """As the heads of detectors are: one convolution for all resolutions, a norm for each."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm1, self.norm2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm1(self.conv(x)) + self.norm2(self.conv(-x))


class Branches(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        x = self.inside(x)
        return x if x.sum() > 1e6 else 2 * x


class Standardized(nn.Conv2d):
    """Its weights are not what it multiplies by."""

    def forward(self, x):
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias)


def conv_norm(convolution=nn.Conv2d, norm=nn.BatchNorm2d, **options):
    return nn.Sequential(convolution(3, 6, 3, **options), norm(6))


def trained(network):
    """In eval mode, with batch norms that do something."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, -1, 1)
            if module.track_running_stats:
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.1, 4)
    return network.requires_grad_(False).eval()


def images(size=16, batch=4, dimensions=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *[size] * dimensions, generator=generator)


class CountNorms(TorchFunctionMode):
    """Counts how often batch norm is computed, whoever asks for it."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__ == "batch_norm"
        return func(*args, **(kwargs or {}))


def norms_called(network, batch):
    with CountNorms() as norms:
        network(batch)
    return norms.count


def test_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    values = {"0.weight": [1, 2, 3], "0.bias": [4], "1.weight": [6], "1.bias": [5]}
    values |= {"1.running_mean": [2], "1.running_var": [9]}
    for key, value in values.items():
        tensor = network.state_dict()[key]
        tensor.copy_(torch.tensor(value).view_as(tensor))
    folded = fold_batch_norm(network, images())
    # 6 * (w x + 4 - 2) / sqrt(9) + 5 = 2 w x + 9
    weight, bias = folded.parameters()
    assert weight.flatten().tolist() == [2, 4, 6]
    assert bias.tolist() == [9]


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: models.build("resnet8", 10), 0),
        (lambda: models.build("resnet8x4", 10), 0),
        (lambda: conv_norm(bias=False), 0),
        (lambda: conv_norm(padding=1, stride=2, groups=3), 0),
        (lambda: conv_norm(norm=lambda width: nn.BatchNorm2d(width, affine=False)), 0),
        (lambda: conv_norm(norm=Activated), 0),
        (lambda: conv_norm(nn.Conv1d, nn.BatchNorm1d), 0),
        (lambda: conv_norm(nn.Conv3d, nn.BatchNorm3d), 0),
        (BeforeTheConvolution, 1),
        # decides by what it is given, but in a part that need not be looked into
        (lambda: nn.Sequential(conv_norm(), Branches(nn.Conv2d(6, 2, 3))), 0),
    ],
)
def test_the_same_answers_with_fewer_norms(make, left):
    network = trained(make())
    dimensions = 1 + [nn.Conv1d, nn.Conv2d, nn.Conv3d].index(
        next(type(module) for module in network.modules() if isinstance(module, nn.modules.conv._ConvNd))
    )
    batch = images(dimensions=dimensions)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batch_norm(network, batch[:2])
    assert norms_called(folded, batch) == left < norms_called(network, batch)
    answer = folded(batch)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert norms_called(network, batch) > left
    torch.testing.assert_close(answer.double(), network.double()(batch.double()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        nn.Identity,
        OutputUsedTwice,
        ConvolutionUsedTwice,
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),
        lambda: conv_norm(nn.ConvTranspose2d),
        lambda: conv_norm(norm=lambda width: nn.BatchNorm2d(width, track_running_stats=False)),
    ],
)
def test_nothing_to_fold(make, caplog):
    caplog.set_level(logging.DEBUG, "cmkd")
    assert fold_batch_norm(trained(make()), images()) is None
    assert not caplog.messages


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Branches(conv_norm()), "control flow"),
        (lambda: conv_norm(Standardized), "would differ by"),
        (lambda: nn.Sequential(conv_norm(), nn.Linear(7, 7)), "cannot be multiplied"),
    ],
)
def test_what_cannot_be_folded_stays_as_it_is(make, message, caplog):
    caplog.set_level(logging.DEBUG, "cmkd")
    assert fold_batch_norm(trained(make()), images()) is None
    assert message in caplog.text


def test_bfloat16_loses_no_more_with_the_folded_network():
    network = trained(models.build("resnet20", 50))
    with torch.no_grad():  # statistics of its own images, as training leaves them
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                module.reset_running_stats()
        network.train()(images(32, 32))
        network.eval()
        batch = images(32, 32)
        folded = fold_batch_norm(network, batch[:2])
        exact = network(batch)
        with torch.autocast("cpu", torch.bfloat16):
            errors = [float((each(batch) - exact).square().mean().sqrt()) for each in (network, folded)]
    assert 0 < errors[1] < 1.5 * errors[0] < 0.1 * float(exact.std())
