import pytest

from cmkd.bench import running
from cmkd.bench.config import BenchConfig
from tests.bench.in_process import InProcess
from tests.bench.processes import TESTS, prepare


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A folder with a small grid, run from its beginning to its end."""
    root = tmp_path_factory.mktemp("unbroken")
    prepare(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.syspath_prepend(str(TESTS))
        patch.setattr(running, "open_runner", lambda config: InProcess())
        patch.setattr("cmkd.report.write_report", lambda file, *_, **__: file)
        outcome = running.bench(BenchConfig(spec="grid.yaml", out="grid"))
    assert outcome.failures == {}
    return root
