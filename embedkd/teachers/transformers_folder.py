"""A folder as transformers saves it: its config, its card, and whether code of its own may run.

The folder may come from a stranger. Of a config.json only the fields are read that the library's own config class
declares, and only as numbers within bounds: some other keys name code.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from embedkd.errors import TeacherError
from embedkd.teachers.folders import read_json
from embedkd.teachers.hub import fetch_folder, read_licence
from embedkd.teachers.transformers_published import CONFIG_FILE
from embedkd.teachers.weights import find_weight_files

if TYPE_CHECKING:
    from embedkd.teachers.base import LoadOptions, ResolvedName
    from embedkd.teachers.known.model import KnownModel
    from embedkd.teachers.transformers_published import Published

_DOCUMENTS = (CONFIG_FILE, "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
_LARGEST = {
    "hidden_size": 65_536,
    "hidden_sizes": 65_536,
    "intermediate_size": 262_144,
    "num_attention_heads": 1_024,
    "projection_dim": 65_536,
    "image_size": 8_192,
    "patch_size": 8_192,
}
# Each layer is a Python object, which costs memory and time even where its weights do not.
_LARGEST_DEPTH = 1_000
_LARGEST_NUMBER = 10_000_000
_DEPTHS = ("layers", "depth", "blocks", "stages")
# Fields that decide how weights start or are trained, and nothing of what trained ones say.
_SIDES = ("image_size", "patch_size")
_ONLY_TRAIN = ("initializer", "logit_scale_init", "layer_scale_init", "layerscale", "encoder_stride", "use_mask_token")
_LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "pillow")


@contextmanager
def open_folder(name: "ResolvedName", options: "LoadOptions", published: "Mapping[str, Published]") -> Iterator[Path]:
    """The folder that a name means.

    Its own one, else for a file of weights or for random ones a folder made of what is published of the model, else the
    hub's.

    Raises:
        TeacherError: The hub cannot be reached, or a file of weights has no known model around it.
    """
    own = Path(name.weights).expanduser() if name.weights else None
    if own is not None and own.is_dir():
        yield own
    elif name.model in published and (own is not None or options.random_seed is not None):
        with TemporaryDirectory() as made:
            published[name.model].write(Path(made))
            yield Path(made)
    elif own is not None:
        raise TeacherError(f"'{own}' is a file, and nothing tells its config; give the folder that holds both")
    elif options.random_seed is not None:
        yield fetch_folder(name.source, name.name, weights=())
    else:
        yield fetch_folder(name.source, name.name)


def weight_files(name: "ResolvedName", folder: Path) -> list[Path]:
    """The files that hold the weights of a name whose folder is open.

    Raises:
        TeacherError: There are none.
    """
    own = Path(name.weights).expanduser() if name.weights else folder
    return [own] if own.is_file() else find_weight_files(folder)


def may_run_code(folder: Path, name: "ResolvedName", options: "LoadOptions") -> bool:
    """Whether a folder brings code of its own that its user opted into.

    Raises:
        TeacherError: It brings code, and nobody opted in, or to none of another repository; nothing was imported.
    """
    named = name.weights or name.source
    files = [folder / document for document in _DOCUMENTS if (folder / document).is_file()]
    asking = {file: code for file in files if (code := _code_of(read_json(file)))}
    for file, code in asking.items():
        if options.trusted_code != named:
            raise TeacherError(
                f"'{file}' asks for model code of its own (auto_map); refused, since loading would run it here\n"
                f"read that code; where you trust it, say --trust-code {named}"
            )
        if "--" in str(code):  # transformers writes "organisation/model--file.Class"
            raise TeacherError(
                f"'{file}' asks for code of another repository than {named}, which was trusted; copy it into the folder"
            )
    return bool(asking)


def read_config(folder: Path, *, trusted: bool) -> PreTrainedConfig:
    """The architecture that a folder's config.json describes.

    Raises:
        TeacherError: A value is of another type, or so large that no such model exists, or the library does not know
            the kind of model.
    """
    file = folder / CONFIG_FILE
    document = read_json(file)
    try:
        if trusted:
            config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
            return config
        _check_numbers(document, file)
        kind = document.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            raise TeacherError(
                f"'{file}': transformers {version('transformers')} has no model_type '{kind}'; a newer one may have it"
            )
        with quiet():
            config = _build_config(document, CONFIG_MAPPING[kind])
    except (StrictDataclassError, TypeError, ValueError, AttributeError, KeyError, ImportError) as error:
        raise TeacherError(f"'{file}' describes no model: {' '.join(str(error).split())}") from error
    for part in (config, *_parts(config).values()):
        if getattr(part, "num_channels", 3) != 3:
            raise TeacherError(f"'{file}' takes {part.num_channels} channels; images are RGB, expected 3")
    return config


def read_architecture(folder: Path) -> str:
    """The class that a folder's weights were saved from ("ViTForImageClassification"); empty where it does not say."""
    architectures = read_json(folder / CONFIG_FILE).get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    return first if isinstance(first, str) else ""


def describe_architecture(architecture: str, config: PreTrainedConfig) -> str:
    """One line that is the same for every folder of the same architecture: all that differs from its defaults."""
    with quiet():  # some defaults come with a warning
        return f"transformers {architecture}({_differences(config)})"


def provenance(
    name: "ResolvedName", options: "LoadOptions", folder: Path, known: "KnownModel | None"
) -> dict[str, Any]:
    """Fields of a `TeacherSpec` that say where a model came from."""
    hub = not name.weights
    drawn = options.random_seed is not None
    return {
        "source": f"random weights, seed {options.random_seed}" if drawn else name.source,
        # A snapshot's folder is named after its commit; weights of one's own have no revision.
        "revision": folder.name if hub and not drawn else None,
        "libraries": tuple((library, version(library)) for library in _LIBRARIES),
        "licence": None if drawn else read_licence(folder) or (known.licence if known and hub else None),
        "random_weights": drawn,
    }


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and load reports of the library: errors say what matters."""
    library: Any = logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


def _code_of(document: Mapping[str, Any]) -> list[Any]:
    """What a document maps to code, at any depth."""
    own = [document["auto_map"]] if "auto_map" in document else []
    inner = [value for value in document.values() if isinstance(value, dict)]
    return own + [code for part in inner for code in _code_of(part)]


def _check_numbers(document: Mapping[str, Any], file: Path) -> None:
    for key, value in document.items():
        if isinstance(value, dict):
            _check_numbers(value, file)
            continue
        most = _LARGEST.get(key, _LARGEST_DEPTH if key.endswith(_DEPTHS) or key == "depths" else _LARGEST_NUMBER)
        for number in value if isinstance(value, list) else [value]:
            least = 1 if most < _LARGEST_NUMBER else -_LARGEST_NUMBER
            if type(number) is int and not least <= number <= most:
                raise TeacherError(f"'{file}' has {key} {number}, expected {least} to {most}")


def _build_config(document: Mapping[str, Any], kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    names = [*_own_fields(kind), *kind.attribute_map]
    arguments = {key: document[key] for key in names if document.get(key) is not None}
    for key, part in kind.sub_configs.items():
        inner = document.get(key)
        if isinstance(inner, dict):
            arguments[key] = _build_config(inner, part)
    labels = document.get("id2label")
    if isinstance(labels, dict):
        arguments["num_labels"] = len(labels)
    return kind(**arguments)


def _own_fields(kind: type[PreTrainedConfig]) -> list[str]:
    names = {field.name for field in fields(kind)} - {field.name for field in fields(PreTrainedConfig)}
    return sorted(name for name in names if not name.startswith("_"))


def _parts(config: PreTrainedConfig) -> dict[str, PreTrainedConfig]:
    parts = {key: getattr(config, key, None) for key in type(config).sub_configs}
    return {key: part for key, part in parts.items() if isinstance(part, PreTrainedConfig)}


def _differences(config: PreTrainedConfig) -> str:
    parts, default = _parts(config), type(config)()
    found = [f"{key}=({_differences(part)})" for key, part in parts.items()]
    for key in _own_fields(type(config)):
        value = _plain(key, getattr(config, key))
        if key not in parts and not _only_trains(key) and value != _plain(key, getattr(default, key)):
            found.append(f"{key}={value}")
    return ", ".join(found)


def _only_trains(key: str) -> bool:
    return "drop" in key or key.startswith(_ONLY_TRAIN)


def _plain(key: str, value: Any) -> Any:
    """A side written as one number or as two equal ones is the same side."""
    if not isinstance(value, (list, tuple)):
        return value
    return value[0] if key in _SIDES and len(set(value)) == 1 else tuple(value)
