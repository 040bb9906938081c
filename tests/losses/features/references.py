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


def conv3x3(x, weight):
    """With a border of zeros."""
    around = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,dcij->ndhw", windows, weight)


def nearest(x, size):
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, x.shape[2:], strict=True))
    return x[:, :, rows][:, :, :, columns]


def hierarchical_distance(student, teacher):
    """Full size counts 1, and 4, 2 and 1 half of the one before, as far as they are smaller."""
    terms, factors = [np.mean((student - teacher) ** 2)], [1.0]
    for side in (4, 2, 1):
        if side < student.shape[2]:
            size = (side, side)
            terms.append(np.mean((pooled(student, size) - pooled(teacher, size)) ** 2))
            factors.append(factors[-1] / 2)
    return np.average(terms, weights=factors)


def review(students, teachers, weights):
    """Chen et al. 2021; the weights of each level: reduction, attention with bias or None, prediction."""
    total, carried = 0.0, None
    for x, target, (reduce, attend, predict) in reversed(list(zip(students, teachers, weights, strict=True))):
        x = batch_norm(conv1x1(x, reduce))
        if attend is not None:
            carried = nearest(carried, x.shape[2:])
            score = conv1x1(np.concatenate([x, carried], axis=1), *attend)
            share = 1 / (1 + np.exp(-score))
            x = x * share[:, [0]] + carried * share[:, [1]]
        carried = nearest(x, target.shape[2:])
        total += hierarchical_distance(batch_norm(conv3x3(carried, predict)), target)
    return total


def ofd_margins(teacher):
    """Mean negative response per channel."""
    return [teacher[:, c][teacher[:, c] < 0].mean() for c in range(teacher.shape[1])]


def ofd(student, teacher, margins):
    """Case by case, summed over an image."""
    total = 0.0
    for place in np.ndindex(student.shape):
        s, t, margin = student[place], teacher[place], margins[place[1]]
        if t > 0 or (margin < t <= 0 and s > t):
            total += (s - t) ** 2
        elif t <= margin and s > margin:
            total += (s - margin) ** 2
    return total / len(student)


def crd(student, teacher, student_bank, teacher_bank, indices, counts, temperature):
    """Tian et al. 2020, image by image, Z from this batch; counts say how often each image is a negative."""
    images, drawn = len(student_bank), counts[0].sum()
    total = 0.0
    for anchors, bank in ((student, teacher_bank), (teacher, student_bank)):
        scores = np.exp(anchors @ bank.T / temperature)
        own = np.array([row[index] for row, index in zip(scores, indices, strict=True)])
        z = (own.sum() + (counts * scores).sum()) / (len(own) * (drawn + 1)) * images
        noise = drawn / images
        for p_own, p, row in zip(own / z, scores / z, counts, strict=True):
            total -= np.log(p_own / (p_own + noise)) + row @ np.log(noise / (p + noise))
    return total / len(indices)


def flow(first, second):
    """Of (N, C, H, W) and (N, D, H, W)."""
    return np.array([[[np.mean(a * b) for b in y] for a in x] for x, y in zip(first, second, strict=True)])
