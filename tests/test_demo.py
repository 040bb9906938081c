"""The demo names its teacher so that its runs can be continued from another installation."""

import pytest

from cmkd import demo
from cmkd.teachers.opening import SHIPPED, run_folder


@pytest.mark.parametrize(
    ("exists", "out", "teacher"),
    [
        (False, "cmkd-demo", "demo"),
        (False, "runs/demo", "demo"),
        (True, "cmkd-demo", str(SHIPPED)),
        (False, "demo", str(SHIPPED)),
        (False, "demo/first", str(SHIPPED)),
    ],
)
def test_the_teacher_is_named_by_its_path_only_where_it_has_to_be(
    tmp_path, monkeypatch, exists, out, teacher
):
    class Begun(Exception):
        pass

    def distill(config, *, progress):
        given.append(config.teacher)
        (tmp_path / config.out).mkdir(parents=True, exist_ok=True)
        assert run_folder(config.teacher) == SHIPPED
        raise Begun

    given = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "distill", distill)
    if exists:
        (tmp_path / "demo").mkdir()
    for _ in range(2):  # and the same when it is continued
        with pytest.raises(Begun):
            demo.demo(out)
    assert given == [teacher] * 2
