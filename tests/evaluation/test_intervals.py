import pytest
from scipy.stats import binomtest

from cmkd.evaluation.intervals import share, wilson


@pytest.mark.parametrize(
    ("count", "of"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 10), (4969, 10000), (1, 10**6)]
)
def test_the_interval_is_scipys(count, of):
    theirs = binomtest(count, of).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(count, of) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_share_lies_in_its_interval():
    found = share(3, 4)
    assert found["low"] < found["value"] == 0.75 < found["high"]
    assert (found["count"], found["of"]) == (3, 4)
