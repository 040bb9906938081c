"""Teachers: where the logits to learn from come from."""

from cmkd.teachers.cached import CachedTeacher
from cmkd.teachers.ensemble import EnsembleTeacher, open_teachers
from cmkd.teachers.live import LiveTeacher
from cmkd.teachers.opening import TeacherReport, open_teacher

__all__ = [
    "CachedTeacher",
    "EnsembleTeacher",
    "LiveTeacher",
    "TeacherReport",
    "open_teacher",
    "open_teachers",
]
