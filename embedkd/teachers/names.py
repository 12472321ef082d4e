"""What a teacher's name means. Torch-free, so that a name is checked before anything heavy starts.

A name is ``family:model``, ``family:model@weights``, ``family:path``, or one of these without its family where only one
reading is possible. Weights are a local path, or one of a library's own tags.
"""

from pathlib import Path

from embedkd.errors import ConfigError, TeacherError, UnknownNameError
from embedkd.teachers.base import ResolvedName
from embedkd.teachers.families import FAMILIES


def resolve_name(name: str) -> ResolvedName:
    """Say what a teacher's name means, in milliseconds (timm is asked, and imported, for names that nobody else knows).

    >>> resolve_name("ViT-L-32").name, resolve_name("ViT-L-32").source
    ('vit:ViT-L-32', 'google/vit-large-patch32-224-in21k')
    >>> resolve_name("ViT-B-16").note
    'ViT-B-16 is taken as vit:ViT-B-16 (google/vit-base-patch16-224-in21k); open_clip has a model of that name too'
    >>> resolve_name("openclip:ViT-B-16@laion2b_s34b_b88k").tag
    'laion2b_s34b_b88k'

    Raises:
        UnknownNameError: No family or model is called so.
        ConfigError: A bare name that several families have, or weights for a family that takes none.
        TeacherError: A path that is no folder of a model, or a folder of another model than named.
    """
    family, colon, rest = name.partition(":")
    if colon and family in FAMILIES:
        if _is_path(rest, family):
            return _resolve_folder(rest, family)
        model, _, weights = rest.partition("@")
        return _resolve_model(family, model, weights, bare=False)
    if _is_path(name, None):
        return _resolve_folder(name, None)
    if colon:
        raise UnknownNameError("teacher family", family, FAMILIES)
    model, _, weights = name.partition("@")
    return _resolve_model(_family_of(model), model, weights, bare=True)


def _is_path(text: str, family: str | None) -> bool:
    """Whether a name is a path. A known model stays one even where a folder of that name lies about."""
    if text.startswith(("/", "./", "../", "~")):
        return True
    known = [text in entry.models for entry in FAMILIES.values()]
    if not text or "@" in text or any(known):
        return False
    # A repository "organisation/model" looks like a relative path: it is one only where it is there.
    return Path(text).is_dir() or ("/" in text and family != "hf")


def _family_of(model: str) -> str:
    having = [family for family, entry in FAMILIES.items() if model in entry.models]
    # An entry that says who else has its name is the one that is meant: the paper's.
    having = [family for family in having if FAMILIES[family].models[model].also_in] or having
    if not having:
        # `hf` knows no bare names, and timm is asked last: it alone takes seconds to answer.
        asked = ((family, FAMILIES[family].has) for family in ("openclip", "timm"))
        having = [family for family, has in asked if has is not None and has(model)]
    if not having:
        known = [bare for entry in FAMILIES.values() for bare in entry.models]
        raise UnknownNameError("teacher", model, known)
    if len(having) > 1:
        raise ConfigError(
            f"several families have a teacher '{model}'; say {' or '.join(f'{f}:{model}' for f in having)}"
        )
    return having[0]


def _resolve_model(family: str, model: str, weights: str, *, bare: bool) -> ResolvedName:
    entry, full = FAMILIES[family], f"{family}:{model}"
    known = entry.models.get(model)
    if known is None and not (entry.has is not None and entry.has(model)):
        names = {*entry.models, *(entry.library() if entry.library is not None else ())}
        raise UnknownNameError("teacher", full, [f"{family}:{name}" for name in names])
    source = model if known is None else known.source
    if weights and entry.tags is not None and not _is_file_or_folder(weights):
        return ResolvedName(f"{full}@{weights}", family, model, source, tag=weights)
    if weights:
        return _with_weights(family, model, weights)
    note = None
    if bare and known is not None and known.also_in:
        note = f"{model} is taken as {full} ({known.source}); {known.also_in} has a model of that name too"
    return ResolvedName(full, family, model, source, note=note)


def _is_file_or_folder(text: str) -> bool:
    return "/" in text or text.startswith("~") or Path(text).exists()


def _with_weights(family: str, model: str, weights: str) -> ResolvedName:
    full = f"{family}:{model}"
    if FAMILIES[family].recognise is None:
        raise ConfigError(f"{full} brings its own weights; leave out '@{weights}'")
    if Path(weights).expanduser().is_file():
        return ResolvedName(full, family, model, weights, weights=weights)
    folder = _resolve_folder(weights, family)
    if folder.model != model and not (family in {"hf", "openclip"} or model.startswith(f"{folder.model}.")):
        path = weights if _is_path(weights, family) else f"./{weights}"
        raise TeacherError(
            f"'{weights}' holds a {folder.model}, not the {model} that was named\n"
            f"to use it as it is, say {family}:{path}"
        )
    return ResolvedName(full, family, model, weights, weights=weights)


def _resolve_folder(path: str, family: str | None) -> ResolvedName:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        kind = "a file, not a folder" if folder.exists() else "no folder here"
        raise TeacherError(
            f"'{path}' is {kind}; give the folder that holds the model's config and weights, "
            "or name its model: family:model@file"
        )
    readers = {name: entry.recognise for name, entry in FAMILIES.items() if entry.recognise is not None}
    if family is not None and family not in readers:
        raise TeacherError(f"{family}: reads no folders; leave out '{path}'")
    for name in [family] if family else readers:
        model = readers[name](folder)
        if model is not None:
            return ResolvedName(f"{name}:{model}", name, model, source=path, weights=path)
    raise TeacherError(
        f"'{path}' holds no model that {f'{family}: reads' if family else 'can be read'}: expected a config.json of "
        "transformers or timm, or an open_clip_config.json; copy the model's whole folder"
    )
