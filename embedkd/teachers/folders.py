"""JSON files of a local model folder. Torch-free; the folder may come from a stranger."""

import json
from typing import TYPE_CHECKING, Any

from embedkd.errors import TeacherError

if TYPE_CHECKING:
    from pathlib import Path


def read_json(file: "Path") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        TeacherError: The file is missing, unreadable, or holds something else.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeacherError(f"cannot read '{file}' ({error}); copy the model's whole folder") from error
    if not isinstance(document, dict):
        raise TeacherError(
            f"'{file}' holds no JSON object but a {type(document).__name__}; copy the model's whole folder"
        )
    return document
