import pytest
import torch

from cmkd.losses import CMKDLoss, CTKDLoss, KDLoss, available, cmkd_loss

WHOLE = [kind() for kind in available().values()] + [CMKDLoss(intra_weight=0.5)]


@pytest.mark.parametrize("distill", WHOLE, ids=lambda distill: type(distill).__name__)
def test_compiles_without_graph_breaks(distill, make_case):
    """Traced, not lowered: the lowering is torch's own matter, and slow."""
    case = make_case(samples=4, classes=6)
    compiled = torch.compile(distill, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*case), distill(*case))


@pytest.mark.parametrize("distill", [CTKDLoss(), KDLoss()], ids=lambda kind: type(kind).__name__)
def test_a_last_batch_that_is_smaller_compiles_too(distill, make_case):
    """With a batch size that the compiler no longer knows."""
    torch.compiler.reset()
    compiled = torch.compile(distill, backend="eager", fullgraph=True)
    for samples in (8, 4):
        case = make_case(samples=samples, classes=6)
        torch.testing.assert_close(compiled(*case), distill(*case))


def test_l2_compiles_with_breaks(make_case):
    """Its number of pooling rounds depends on the data."""
    case = make_case(samples=4, classes=6)
    distill = CMKDLoss(rank_method="l2")
    torch.testing.assert_close(torch.compile(distill, backend="eager")(*case), distill(*case))


def test_the_function_compiles_without_graph_breaks(make_case):
    case = make_case(samples=4, classes=6)
    compiled = torch.compile(cmkd_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*case, alpha=3.0), cmkd_loss(*case, alpha=3.0))
