"""``timm:``: any model of timm."""

from pathlib import Path

from embedkd.teachers.folders import read_json
from embedkd.teachers.known.model import KnownModel

MODELS: dict[str, KnownModel] = {}


def recognise(path: Path) -> str | None:
    """The architecture of a folder that timm saved, or None where it is none."""
    if not (path / "config.json").is_file():
        return None
    architecture = read_json(path / "config.json").get("architecture")
    return architecture if isinstance(architecture, str) else None


def has(model: str) -> bool:
    """Whether timm has an architecture of that name, with or without a tag; imports timm, which takes seconds."""
    import timm

    return bool(timm.is_model(model))
