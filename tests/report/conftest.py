import numpy as np
import pytest

from tests.report.details import write_details
from tests.report.synthetic import write_run

CLASSES, IMAGES = 6, 120


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """Three methods; CE without a teacher, CMKD with three seeds. Read only."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "CE": [write_run(root / "ce", "CE", accuracy=0.80, teacher=False, latency=1.5)],
        "KD": [write_run(root / "kd", "KD", accuracy=0.82, latency=1.25)],
        "CMKD": [
            write_run(root / f"cmkd{seed}", "CMKD", accuracy=accuracy, seed=seed, latency=latency)
            for seed, (accuracy, latency) in enumerate([(0.84, 1.0), (0.85, 9.0), (0.87, 2.0)])
        ],
    }


@pytest.fixture(scope="session")
def known():
    """Logits of a teacher and of two students, one of which is nearer to it, and targets. Read only."""
    random = np.random.default_rng(0)
    targets = random.integers(0, CLASSES, IMAGES)
    teacher = random.normal(size=(IMAGES, CLASSES))
    teacher[np.arange(IMAGES), targets] += 2
    far = teacher + random.normal(size=teacher.shape)
    near = teacher + 0.4 * random.normal(size=teacher.shape)
    return {
        name: np.asarray(each, np.float32)
        for name, each in {"teacher": teacher, "KD": far, "CMKD": near}.items()
    } | {"targets": targets}


@pytest.fixture(scope="session")
def measured(known, tmp_path_factory):
    """KD and CMKD of one teacher, measured in detail; CE without a teacher, not measured. Read only."""
    root = tmp_path_factory.mktemp("measured")
    side = 8
    teacher_slice = np.zeros((side, side), np.int32)
    teacher_slice[:, 4:] = 1
    corners = [[0.0, 0.0], [10.0, 0.0], [5.0, 5.0]]
    slice_meta = {"positions": [0, 1, 2], "corners": corners, "x": [-2.0, 12.0], "y": [-1.0, 6.0]}
    groups = {"CE": [write_run(root / "ce", "CE", teacher=False)]}
    for place, name in enumerate(("KD", "CMKD")):
        own = teacher_slice.copy()
        own[0, : place + 1] = 5
        groups[name] = [
            write_details(
                write_run(root / name, name, accuracy=0.8 + 0.02 * place),
                known[name],
                known["targets"],
                teacher=known["teacher"],
                slice_student=own,
                slice_teacher=teacher_slice,
                embedding=np.random.default_rng(place).normal(size=(20, 2)).astype(np.float32),
                embedding_targets=np.arange(20) % 2,
                meta={
                    "slice": slice_meta,
                    "elastic": {"severity": 3, "accuracy": {"student": 0.5 + 0.1 * place, "teacher": 0.7}},
                    "embedding": {"dimensions": 64, "purity": 0.75},
                },
            )
        ]
    return groups
