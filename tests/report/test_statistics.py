import math

import pytest
from scipy import stats

from cmkd.report.statistics import Sample, half_width, paired_difference


def test_three_seeds_worked_out_by_hand():
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, divided by n - 1 = 2: sqrt(7)
    sample = Sample({0: 1.0, 1: 2.0, 2: 6.0})
    assert sample.mean == pytest.approx(3.0)
    assert sample.spread == pytest.approx(math.sqrt(7))
    # t for 2 degrees of freedom is p (2 / (1 - p^2))^(1/2) with p = 0.95 in closed form: 4.30265
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert sample.half_width == pytest.approx(quantile * math.sqrt(7) / math.sqrt(3))


def test_the_interval_is_scipys_of_a_paired_t_test():
    ours, theirs = [0.71, 0.734, 0.72, 0.7], [0.70, 0.71, 0.722, 0.69]
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    difference = paired_difference(Sample(dict(enumerate(ours))), Sample(dict(enumerate(theirs))))
    assert difference.mean - difference.half_width == pytest.approx(expected.low)
    assert difference.mean + difference.half_width == pytest.approx(expected.high)


def test_only_common_seeds_are_paired():
    difference = paired_difference(Sample({0: 0.5, 2: 0.7, 3: 0.9}), Sample({3: 0.6, 2: 0.6, 1: 0.1}))
    assert difference.values == pytest.approx({2: 0.1, 3: 0.3})


def test_one_seed_has_no_spread_and_none_has_no_mean():
    assert (Sample({5: 0.5}).spread, Sample({5: 0.5}).half_width) == (None, None)
    assert (Sample({}).mean, half_width([])) == (None, None)
