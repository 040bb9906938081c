import pytest
import torch
from torch import nn

from cmkd.models import has_unused_parameters


class WithAHead(nn.Module):
    """Has a second head, which is called or not."""

    def __init__(self, called):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
        self.head, self.second, self.called = nn.Linear(4, 2), nn.Linear(4, 2), called

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        return self.head(x) + self.second(x) if self.called else self.head(x)


@pytest.mark.parametrize("called", [True, False])
def test_unused_parameters_are_found_and_the_network_is_left_as_it_was(called):
    network = WithAHead(called)
    network.body[1].eval()  # as one does whose batch norm is not to be trained
    assert has_unused_parameters(network, 8) is not called
    assert [name for name, module in network.named_modules() if not module.training] == ["body.1"]
    assert torch.equal(network.body[1].running_mean, torch.zeros(4))
    assert all(parameter.grad is None for parameter in network.parameters())
