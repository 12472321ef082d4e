"""The structure of a student, as plain numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from embedkd.errors import ConfigError

Value: TypeAlias = bool | int | float | str

# What images are normalised by, on pixels in [0, 1], where no weights come with numbers of their own.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_LARGEST_VALUE = 65_536


@dataclass(frozen=True)
class StudentOptions:
    """What a student may be asked beside its name, its classes and the size of its images.

    Attributes:
        patch_px: Height and width of a patch, a divisor of the image's; None takes the student's own.
        drop_path: Probability that the last block's residual branches are left out while training; rises from 0 at the
            first block.
        dropout: Of attention weights while training; the paper's code has 0.1.
        mask_ratio: Share of an image's patches, drawn for each image and step, that the student does not see while
            training.
        taps: Inner layers that are given out beside the embedding: ``cls@K`` and ``patch_mean@K``, K counted from 0 or,
            negative, from the end.
        extra: Further arguments of timm's model, as it calls them (``drop_rate``, ``global_pool``, ...).

    Raises:
        ConfigError: A number is out of range.
    """

    patch_px: int | None = None
    drop_path: float = 0.0
    dropout: float = 0.0
    mask_ratio: float = 0.0
    taps: tuple[str, ...] = ()
    extra: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("drop_path", "dropout", "mask_ratio"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"student: expected {name} of at least 0 and below 1, got {value}")
        # A card may come from a stranger; it must not make us build a model of any size.
        for name, value in self.extra.items():
            if isinstance(value, int | float) and not -_LARGEST_VALUE <= value <= _LARGEST_VALUE:
                raise ConfigError(f"student: expected options.{name} of at most {_LARGEST_VALUE}, got {value}")


@dataclass(frozen=True)
class VitSpec:
    """A vision transformer.

    Attributes:
        layers: Transformer blocks.
        width: Of a token; also the width of the embedding.
        heads: Attention heads a block.
        mlp_width: Hidden width of a block's MLP.
        patch_px: Height and width of a patch, unless the caller asks for another.
        source: Where the structure comes from, in one line.
    """

    layers: int
    width: int
    heads: int
    mlp_width: int
    patch_px: int
    source: str

    def parameter_count(self, *, num_classes: int, image_px: int, patch_px: int | None = None) -> int:
        """Parameters of the model, without building it.

        >>> spec = VitSpec(layers=6, width=256, heads=8, mlp_width=1024, patch_px=4, source="")
        >>> spec.parameter_count(num_classes=100, image_px=32)
        4794468
        """
        patch = patch_px or self.patch_px
        norm = 2 * self.width
        attention = 4 * (self.width + 1) * self.width
        mlp = (self.width + 1) * self.mlp_width + (self.mlp_width + 1) * self.width
        tokens = (image_px // patch) ** 2 + 1
        embedding = 3 * patch**2 * self.width + self.width + tokens * self.width + norm
        return embedding + self.layers * (attention + mlp + 2 * norm) + norm + (self.width + 1) * num_classes

    def timm_arguments(self) -> dict[str, Value]:
        """What makes timm's VisionTransformer this one.

        CLIP's form: patches without bias and a norm before the blocks (``pre_norm`` stands for both; the norms in each
        block are always there), a class token, learned positions, QuickGELU.
        """
        return {
            "patch_size": self.patch_px,
            "embed_dim": self.width,
            "depth": self.layers,
            "num_heads": self.heads,
            "mlp_ratio": self.mlp_width / self.width,
            "pre_norm": True,
            "act_layer": "quick_gelu",
        }
