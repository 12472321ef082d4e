"""Training with the teacher in the loop: the one mode of ``embedkd train`` that imports a teacher."""

from embedkd.online.stage import train_online
from embedkd.online.teachers import OnlineTeachers

__all__ = ["OnlineTeachers", "train_online"]
