"""``hf:``: CLIP, SigLIP and other vision towers of transformers, by repository or folder."""

from pathlib import Path

from embedkd.teachers.folders import read_json
from embedkd.teachers.known import vit
from embedkd.teachers.known.model import KnownModel

MODELS: dict[str, KnownModel] = {}


def recognise(path: Path) -> str | None:
    """The folder's own name where transformers saved it and ``vit:`` does not read it; else None."""
    if not (path / "config.json").is_file():
        return None
    kind = read_json(path / "config.json").get("model_type")
    return path.resolve().name if kind and kind not in vit.MODEL_TYPES else None


def has(model: str) -> bool:
    """Whether a name looks like a repository of the hub ("organisation/model"); only the hub knows more."""
    owner, slash, name = model.partition("/")
    return bool(owner and slash and name) and "/" not in name
