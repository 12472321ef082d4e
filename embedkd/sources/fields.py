"""Fields of a sample by meaning: the image, the label, the caption."""

from typing import TYPE_CHECKING

from embedkd.errors import ShardError
from embedkd.sources.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LABEL_SUFFIX = "cls"
CAPTION_SUFFIX = "txt"
NO_LABEL = -1


def image_suffix(suffixes: "Iterable[str]", where: str) -> str | None:
    """The one suffix that names an image ("jpg", also "crop.jpg"), or None.

    Raises:
        ShardError: Several members are images; which one the teacher should see is for the data's owner to say.
    """
    images = [s for s in suffixes if s.rsplit(".", 1)[-1] in IMAGE_SUFFIXES]
    if len(images) > 1:
        raise ShardError(
            f"{where} holds {len(images)} images ({', '.join(sorted(images))}); expected one a sample: "
            "neighbours that differ behind the first dot are one sample, rename them"
        )
    return images[0] if images else None


def label(fields: "Mapping[str, bytes]", where: str) -> int:
    """The class number in ``.cls``, or NO_LABEL where there is none.

    Raises:
        ShardError: The field is not a number that fits 32 bits and is >= 0.
    """
    text = fields.get(LABEL_SUFFIX)
    if text is None:
        return NO_LABEL
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 31:
        raise ShardError(f"{where}: expected a class number in .{LABEL_SUFFIX}, got {text[:20]!r}")
    return value
