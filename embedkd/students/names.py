"""Names of students: the paper's own, any model of timm, and torchvision's names of those.

vit-base                        the paper's, from scratch
timm:resnet18                   timm's, from scratch
torchvision:resnet18            the same model by torchvision's name
timm:resnet18.a1_in1k           a tag names weights on the hub
timm:resnet18@weights.safetensors, vit-base@runs/a    weights from a file, an export, or a run
"""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from embedkd.errors import UnknownNameError
from embedkd.students.spec import VitSpec
from embedkd.students.torchvision_names import TIMM_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedkd.students.spec import Value

STUDENTS: Final[dict[str, VitSpec]] = {
    "vit-tiny": VitSpec(
        layers=4,
        width=128,
        heads=4,
        mlp_width=512,
        patch_px=8,
        source="a laptop trains it in a minute",
    ),
    "vit-base": VitSpec(
        layers=6,
        width=256,
        heads=8,
        mlp_width=1024,
        patch_px=4,
        source="base student of CLIP-Embed-KD (Nair 2024)",
    ),
    "vit-large": VitSpec(
        layers=10,
        width=512,
        heads=8,
        mlp_width=2048,
        patch_px=4,
        source="large student of CLIP-Embed-KD (Nair 2024)",
    ),
}
FAMILIES: Final = ("timm", "torchvision")
# The paper's students as timm builds them: their numbers replace all those of this one.
_PAPERS_ARCHITECTURE = "vit_base_patch16_224"


@dataclass(frozen=True)
class StudentName:
    """A name, taken apart.

    Attributes:
        model: The student without its weights, as it was spelled: "vit-base", "timm:resnet18".
        architecture: What timm calls the model.
        arguments: What timm's model is built with beside its own defaults.
        tag: Of weights on the hub; None without.
        weights: A file or folder that holds weights; None without.
    """

    model: str
    architecture: str
    arguments: "Mapping[str, Value]" = field(default_factory=dict)
    tag: str | None = None
    weights: str | None = None

    @property
    def spelled(self) -> str:
        """The whole name, as an error shows it."""
        return self.model + (f".{self.tag}" if self.tag else "") + (f"@{self.weights}" if self.weights else "")


def resolve_name(name: str) -> StudentName:
    """Take a name apart and look it up; the paper's own load neither torch nor timm.

    Raises:
        UnknownNameError: No student has that name; says the nearest.
    """
    model, at, weights = name.partition("@")
    path = weights if at else None
    if model in STUDENTS:
        return StudentName(model, _PAPERS_ARCHITECTURE, STUDENTS[model].timm_arguments(), weights=path)
    family, colon, rest = model.partition(":")
    if family == "torchvision" and colon:
        if rest not in TIMM_NAMES:
            raise UnknownNameError("model of torchvision that timm has", rest, TIMM_NAMES)
        return StudentName(model, TIMM_NAMES[rest], weights=path)
    if family == "timm" and colon:
        architecture, _, tag = rest.partition(".")
        if architecture not in (names := timm_names()):
            raise UnknownNameError("student", f"timm:{architecture}", [f"timm:{known}" for known in names])
        return StudentName(f"timm:{architecture}", architecture, tag=tag or None, weights=path)
    # The paper's first: a name near to one of them means it, and timm need not be loaded to say so.
    papers = get_close_matches(model, STUDENTS)
    raise UnknownNameError("student", model, papers or [f"timm:{known}" for known in timm_names()])


def timm_names() -> list[str]:
    """Every architecture of timm; loads it, which takes seconds."""
    import timm

    names: list[str] = timm.list_models()
    return names
