"""Teachers: large models that embedkd runs once over the data.

``load_teacher(name)`` gives one of them, ``resolve_name(name)`` says which one a name means. Importing this package
imports no model library and no torch; an adapter imports its own when a teacher of its family is loaded.
"""

from embedkd.teachers.base import Backbone, LoadOptions, ResolvedName, Teacher
from embedkd.teachers.catalogue import load_teacher
from embedkd.teachers.names import resolve_name

__all__ = ["Backbone", "LoadOptions", "ResolvedName", "Teacher", "load_teacher", "resolve_name"]
