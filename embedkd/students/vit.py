"""The paper's students: CLIP's vision transformer in small, from scratch.

Patches without bias, a class token, learned positions, a norm before the blocks and one before each of their branches,
QuickGELU, a linear head on the class token after the last norm.
"""

from typing import TYPE_CHECKING

from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer

from embedkd.errors import ConfigError
from embedkd.students.base import Student, StudentOutput, drawn_from

if TYPE_CHECKING:
    from torch import Tensor

    from embedkd.students.spec import VitSpec


class VitStudent(Student):
    """timm's VisionTransformer as a student.

    Args:
        spec: Its structure.
        num_classes: Width of the logits.
        image_px: Height and width of its input.
        patch_px: Height and width of a patch; None takes the spec's.
        drop_path: Of the last block's branches, rising linearly from 0 at the first.
        dropout: Of attention weights.
        seed: All that the initial weights depend on.

    Attributes:
        model: A complete timm model, head included: its state loads into timm without embedkd.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        spec: "VitSpec",
        *,
        num_classes: int,
        image_px: int,
        patch_px: int | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        patch = spec.patch_px if patch_px is None else patch_px
        _check_sizes(num_classes, image_px, patch)
        _check_probabilities(drop_path=drop_path, dropout=dropout)
        self.embedding_dim, self.num_classes, self.image_px = spec.width, num_classes, image_px
        with drawn_from(seed):
            self.model = VisionTransformer(
                img_size=image_px,
                patch_size=patch,
                num_classes=num_classes,
                embed_dim=spec.width,
                depth=spec.layers,
                num_heads=spec.heads,
                mlp_ratio=spec.mlp_width / spec.width,
                pre_norm=True,  # timm's word for the norm before the first block; the one in each block is always there
                act_layer=QuickGELU,
                attn_drop_rate=dropout,
                drop_path_rate=drop_path,
            )

    def forward(self, pixels: "Tensor") -> StudentOutput:
        """Look at images.

        Args:
            pixels: float32 [B, 3, image_px, image_px], normalised per channel.

        Raises:
            ConfigError: Pixels of another shape.
        """
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.image_px, self.image_px):
            raise ConfigError(
                f"student: expected pixels [B, 3, {self.image_px}, {self.image_px}], got {list(pixels.shape)}; "
                "resize the images to student.image_px"
            )
        tokens: Tensor = self.model.forward_features(pixels)
        embedding = tokens[:, 0]
        return StudentOutput(embedding, self.model.head(embedding))

    def no_weight_decay(self) -> set[str]:
        """Positions and the class token."""
        return {f"model.{name}" for name in self.model.no_weight_decay()}


def _check_sizes(num_classes: int, image_px: int, patch_px: int) -> None:
    if num_classes < 1:
        raise ConfigError(f"student: expected at least 1 class, got {num_classes}")
    if patch_px < 1 or image_px < 1 or image_px % patch_px:
        raise ConfigError(f"student: expected patch_px to divide image_px = {image_px}, got {patch_px}")


def _check_probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ConfigError(f"student: expected {name} of at least 0 and below 1, got {value}")
