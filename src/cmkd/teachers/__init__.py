"""Teachers: where the logits to learn from come from."""

from cmkd.teachers.cached import CachedTeacher
from cmkd.teachers.live import LiveTeacher
from cmkd.teachers.opening import TeacherReport, open_teacher

__all__ = ["CachedTeacher", "LiveTeacher", "TeacherReport", "open_teacher"]
