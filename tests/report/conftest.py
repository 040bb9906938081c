import pytest

from tests.report.synthetic import write_run


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
