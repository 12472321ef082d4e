"""``openclip:``: every model of open_clip."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from embedkd.teachers.folders import read_json
from embedkd.teachers.known.model import KnownModel

CONFIG_FILE = "open_clip_config.json"
MODELS: dict[str, KnownModel] = {}


def recognise(path: Path) -> str | None:
    """The model of a folder that open_clip saved, or None where it is none."""
    if not (path / CONFIG_FILE).is_file():
        return None
    config = read_json(path / CONFIG_FILE).get("model_cfg")
    shapes = {name: read_json(file) for name, file in config_files().items()}
    return next((name for name, shape in shapes.items() if shape == config), path.resolve().name)


def has(model: str) -> bool:
    """Whether open_clip has an architecture of that name."""
    return model in config_files()


@cache
def config_files() -> dict[str, Path]:
    """Architectures of the installed open_clip: name to the file that describes it. Does not import open_clip."""
    spec = find_spec("open_clip")
    places = spec.submodule_search_locations if spec is not None else None
    return {file.stem: file for place in places or () for file in sorted(Path(place, "model_configs").glob("*.json"))}
