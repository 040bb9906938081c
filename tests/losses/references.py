"""The losses once more, row by row in NumPy and SciPy, in float64, for the tests to compare with."""

import numpy as np
from scipy import stats
from scipy.special import log_softmax, softmax


def gradient(function, student, step=1e-5):
    """Central differences of a scalar function of an array."""
    result = np.zeros_like(student)
    for place in np.ndindex(student.shape):
        shift = np.zeros_like(student)
        shift[place] = step
        result[place] = (function(student + shift) - function(student - shift)) / (2 * step)
    return result


def kd(student, teacher, temperature, alpha):
    """Weighted divergence per row."""
    p_s, p_t = (softmax(x / temperature, axis=1) for x in (student, teacher))
    return alpha * temperature**2 * stats.entropy(p_t, p_s, axis=1)


def standardized(logits):
    """The z-scores of Sun et al. 2024, with the unbiased standard deviation."""
    return stats.zscore(logits, axis=1, ddof=1)


def dkd(student, teacher, target, temperature, alpha, beta):
    """Zhao et al. 2022, eq. 7, per row."""
    values = []
    for s, t, label in zip(student, teacher, target, strict=True):
        p_s, p_t = softmax(s / temperature), softmax(t / temperature)
        binary = stats.entropy([p_t[label], 1 - p_t[label]], [p_s[label], 1 - p_s[label]])
        others_s, others_t = np.delete(p_s, label), np.delete(p_t, label)
        others = stats.entropy(others_t / others_t.sum(), others_s / others_s.sum())
        values.append(temperature**2 * (alpha * binary + beta * others))
    return np.array(values)


def mlkd(student, teacher, temperatures, weights):
    """Jin et al. 2023: the levels of a batch, by the Gram matrices themselves."""
    total = 0.0
    for temperature in temperatures:
        p_s, p_t = (softmax(x / temperature, axis=1) for x in (student, teacher))
        total += weights[0] * kd(student, teacher, temperature, 1.0).mean()
        total += weights[1] * np.square(p_t @ p_t.T - p_s @ p_s.T).sum() / len(student)
        total += weights[2] * np.square(p_t.T @ p_t - p_s.T @ p_s).sum() / student.shape[1]
    return total


def nkd(student, teacher, target, temperature, gamma):
    """Yang et al. 2023, per row."""
    values = []
    for s, t, label in zip(student, teacher, target, strict=True):
        value = -softmax(t)[label] * np.log(softmax(s)[label])
        shares_s, shares_t = (softmax(np.delete(x, label) / temperature) for x in (s, t))
        values.append(value - gamma * temperature**2 * (shares_t @ np.log(shares_s)))
    return np.array(values)


def ttm(student, teacher, gamma, beta):
    """Zheng and Yang 2024, eq. 7 and 2: the divergence per row, and the power sum of the teacher."""
    powers = softmax(teacher, axis=1) ** gamma
    divergence = stats.entropy(powers / powers.sum(1, keepdims=True), softmax(student, axis=1), axis=1)
    return beta * divergence, powers.sum(1)


def kendall(student, teacher, steepness):
    """The smooth tau of every row, pair by pair."""
    first, second = np.triu_indices(student.shape[1], 1)
    signs = [np.tanh(steepness * (x[:, first] - x[:, second])) for x in (student, teacher)]
    return (signs[0] * signs[1]).mean(1)


def listmle(student, teacher):
    """Xia et al. 2008: classes drawn in the teacher's order; ties stay with those that are left."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        chances = [np.exp(s[i]) / np.exp(s[t <= t[i]]).sum() for i in range(len(s))]
        values.append(-np.log(chances).sum())
    return np.array(values)


def dist_terms(p_s, p_t):
    """Inter-class relation per row, intra-class relation of the batch."""
    inter = np.array([1 - stats.pearsonr(a, b).statistic for a, b in zip(p_s, p_t, strict=True)])
    intra = np.mean([1 - stats.pearsonr(a, b).statistic for a, b in zip(p_s.T, p_t.T, strict=True)])
    return inter, intra


def binned_rank(logits, knots):
    """Values shared between the knots around them, each counting the shares at lower knots as below it."""
    z = stats.zscore(logits)
    place = (z / (1 + np.abs(z)) + 1) / 2 * (knots - 1)
    hats = np.clip(1 - np.abs(place[:, None] - np.arange(knots)), 0, None)
    below = np.tril(np.ones((knots, knots)), -1) + 0.5 * np.eye(knots)
    return 0.5 + (hats @ below @ hats.T).sum(1)


def cmkd_terms(student, teacher, knots, tau=1.0):
    """Pearson and Spearman term per row, with the default inputs."""
    p_s, p_t = (softmax(stats.zscore(x, axis=1) / tau, axis=1) for x in (student, teacher))
    values, _ = dist_terms(p_s, p_t)
    ranks = [
        1 - stats.pearsonr(binned_rank(s, knots), stats.rankdata(t)).statistic
        for s, t in zip(student, teacher, strict=True)
    ]
    return values, np.array(ranks)


def normalized_entropy(logits, tau=1.0):
    """Entropy of the tempered softmax of z-scored logits, over log C."""
    p = softmax(stats.zscore(logits, axis=1) / tau, axis=1)
    return stats.entropy(p, axis=1) / np.log(logits.shape[1])


def normalized_cross_entropy(logits, target):
    """Cross-entropy on the label over log C, cut at 1."""
    ce = -np.take_along_axis(log_softmax(logits, axis=1), target[:, None], axis=1)[:, 0]
    return np.clip(ce / np.log(logits.shape[1]), 0, 1)
