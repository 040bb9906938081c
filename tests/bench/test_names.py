import string
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cmkd.bench.names import pair_name, safe, shown

PLAIN = set(string.ascii_letters + string.digits + "._+=-")


def test_what_reads_well_stays_as_it_is():
    for name in ("resnet8x4", "wrn_40_2", "CMKD", "alpha=0.5", "KD+AT", "v1.5", "tau-4"):
        assert safe(name) == name


@settings(deadline=None)
@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_two_names_are_never_one(one, other):
    assert (safe(one) == safe(other)) == (one == other)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=200))
def test_a_name_is_one_part_of_a_path(name):
    part = safe(name)
    assert set(part) <= PLAIN | {"~"}
    assert part not in (".", "..")
    assert len(part) <= 64
    assert "--" not in part


@settings(deadline=None)
@given(*[st.text(alphabet="ab-.", min_size=1, max_size=6)] * 4)
def test_two_pairs_are_never_one(teacher, student, other_teacher, other_student):
    same = (teacher, student) == (other_teacher, other_student)
    assert (pair_name(teacher, student) == pair_name(other_teacher, other_student)) == same


def test_a_folder_is_the_same_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spelled = ("runs/a", "./runs/a", "runs/../runs/a/", str(tmp_path / "runs/a"))
    assert {shown(each) for each in spelled} == {str(Path("runs/a"))}
    assert shown(tmp_path.parent / "b") == str(tmp_path.parent / "b")
