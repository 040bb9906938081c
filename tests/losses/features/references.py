"""The losses on features once more in NumPy, in float64, mostly in loops, for the tests to compare with."""

import itertools

import numpy as np


def pooled(x, size):
    """Average (N, C, H, W) down to a size that divides it."""
    n, c, h, w = x.shape
    return x.reshape(n, c, size[0], h // size[0], size[1], w // size[1]).mean((3, 5))


def huber(x):
    x = np.abs(x)
    return np.where(x < 1, 0.5 * x**2, x - 0.5)


def direction(x):
    """Zeros have none."""
    return x / (np.linalg.norm(x) or 1)


def at(student, teacher, p):
    """Both (N, *, H, W) of one size."""
    terms = []
    for s, t in zip(student, teacher, strict=True):
        q_s, q_t = ((np.abs(x) ** p).sum(0).ravel() for x in (s, t))
        terms.append((direction(q_s) - direction(q_t)) ** 2)
    return np.mean(terms)


def sp(student, teacher):
    grams = []
    for x in (student, teacher):
        x = x.reshape(len(x), -1)
        gram = np.array([[a @ b for b in x] for a in x])
        grams.append([row / np.linalg.norm(row) for row in gram])
    return np.linalg.norm(np.subtract(*grams), "fro") ** 2 / len(student) ** 2


def rkd_distance(student, teacher):
    both = []
    for x in (student, teacher):
        distances = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        both.append(distances / distances[distances > 0].mean())
    return huber(both[0] - both[1]).mean()


def rkd_angle(student, teacher):
    def cosine(a, corner, b):
        u, v = a - corner, b - corner
        length = np.linalg.norm(u) * np.linalg.norm(v)
        return 0.0 if length == 0 else u @ v / length

    triples = itertools.product(range(len(student)), repeat=3)
    return np.mean(
        [
            huber(cosine(*(student[i] for i in triple)) - cosine(*(teacher[i] for i in triple)))
            for triple in triples
        ]
    )


def pkt(student, teacher):
    both = []
    for x in (student, teacher):
        kernel = [[(a @ b / np.linalg.norm(a) / np.linalg.norm(b) + 1) / 2 for b in x] for a in x]
        both.append([np.array(row) / np.sum(row) for row in kernel])
    p_s, p_t = np.array(both)
    return np.mean(p_t * np.log((p_t + 1e-7) / (p_s + 1e-7)))


def cc(student, teacher):
    """Of embeddings."""
    errors = np.abs(student - teacher)
    return np.mean([a @ b for a, b in itertools.pairwise(errors)])


def nst(student, teacher):
    terms = []
    for s, t in zip(student, teacher, strict=True):
        s, t = ([direction(c.ravel()) for c in x] for x in (s, t))
        means = [np.mean([(a @ b) ** 2 for a in x for b in y]) for x, y in ((s, s), (t, t), (s, t))]
        terms.append(means[0] + means[1] - 2 * means[2])
    return np.mean(terms)


def relu(x):
    return np.maximum(x, 0)


def conv1x1(x, weight, bias=0.0):
    """(N, C, H, W) by (D, C, 1, 1)."""
    return np.einsum("nchw,dc->ndhw", x, weight[:, :, 0, 0]) + np.reshape(bias, (-1, 1, 1))


def batch_norm(x, epsilon=1e-5):
    """As it starts: over the batch, with scale 1 and shift 0."""
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)
