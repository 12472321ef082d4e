"""Every student by name. Torch and timm are imported only when one is built."""

from typing import TYPE_CHECKING, Final

from embedkd.errors import UnknownNameError
from embedkd.students.spec import VitSpec

if TYPE_CHECKING:
    from embedkd.students.base import Student

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


def build_student(
    name: str,
    *,
    num_classes: int,
    image_px: int,
    patch_px: int | None = None,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    seed: int = 0,
) -> "Student":
    """A student from scratch, on the CPU and in training mode.

    Args:
        name: Of the table.
        num_classes: Width of the logits.
        image_px: Height and width of its input.
        patch_px: Height and width of a patch, a divisor of ``image_px``; None takes the student's own.
        drop_path: Probability that the last block's residual branches are left out while training; rises linearly
            from 0 at the first block.
        dropout: Of attention weights while training; the paper's code has 0.1.
        seed: All that the initial weights depend on.

    Raises:
        UnknownNameError: No student has that name.
        ConfigError: A number is out of range.
    """
    if name not in STUDENTS:
        raise UnknownNameError("student", name, STUDENTS)
    from embedkd.students.vit import VitStudent  # loads timm

    return VitStudent(
        STUDENTS[name],
        num_classes=num_classes,
        image_px=image_px,
        patch_px=patch_px,
        drop_path=drop_path,
        dropout=dropout,
        seed=seed,
    )
