"""The families of teachers: one table. Torch-free; an entry imports its adapter when one of its models is loaded."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedkd.teachers.base import LoadOptions, ResolvedName, Teacher
from embedkd.teachers.known import hf, openclip, packaged, timm, vit
from embedkd.teachers.known.model import KnownModel

Loader = Callable[[ResolvedName, LoadOptions], Teacher]


@dataclass(frozen=True)
class Family:
    """One kind of teacher.

    Attributes:
        models: Models known by name.
        load: Imports the adapter and loads one of them.
        recognise: Names the model of a local folder, or says None where it is no folder of this family; None where the
            family reads no folders.
        has: Whether the family's library has a model that `models` does not list; None where the list is all.
        library: Names that the library has, to name the nearest ones; None where nobody can list them.
        tags: The library's own weights for a model, of which ``@`` chooses one, the default first; imports the library.
            None where ``@`` takes paths alone.
    """

    models: Mapping[str, KnownModel]
    load: Loader
    recognise: Callable[[Path], str | None] | None = None
    has: Callable[[str], bool] | None = None
    library: Callable[[], Iterable[str]] | None = None
    tags: Callable[[str], list[str]] | None = None


def _load_packaged(name: ResolvedName, options: LoadOptions) -> Teacher:
    from embedkd.teachers import packaged  # imports torch and timm

    return packaged.load(name, options)


def _load_vit(name: ResolvedName, options: LoadOptions) -> Teacher:
    from embedkd.teachers import vit  # imports torch and transformers

    return vit.load(name, options)


def _load_openclip(name: ResolvedName, options: LoadOptions) -> Teacher:
    from embedkd.teachers import openclip  # imports torch and open_clip

    return openclip.load(name, options)


def _load_hf(name: ResolvedName, options: LoadOptions) -> Teacher:
    from embedkd.teachers import hf  # imports torch and transformers

    return hf.load(name, options)


def _load_timm(name: ResolvedName, options: LoadOptions) -> Teacher:
    from embedkd.teachers import timm  # imports torch and timm

    return timm.load(name, options)


# In the order in which a bare name and a folder are looked up.
FAMILIES: dict[str, Family] = {
    "packaged": Family(packaged.MODELS, _load_packaged),
    "vit": Family(vit.MODELS, _load_vit, vit.recognise),
    "openclip": Family(
        openclip.MODELS, _load_openclip, openclip.recognise, openclip.has, openclip.config_files, tags=openclip.tags
    ),
    "timm": Family(timm.MODELS, _load_timm, timm.recognise, timm.has, timm.architectures),
    "hf": Family(hf.MODELS, _load_hf, hf.recognise, hf.has),
}
