"""The structure of a student, as plain numbers."""

from dataclasses import dataclass


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
