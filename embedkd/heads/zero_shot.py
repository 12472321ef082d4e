"""A zero-shot head: scaled cosines between images and class texts, of stored rows (CLIP, arXiv:2103.00020)."""

from typing import TYPE_CHECKING

import numpy as np

from embedkd.errors import StoreError
from embedkd.records import blake2b_hex, canonical_json
from embedkd.store.heads import Head

if TYPE_CHECKING:
    from embedkd.store import TeacherView

TEXT = "text"


def zero_shot_head(view: "TeacherView", output: str, name: str, class_set: str | None) -> Head:
    """Logits = logit_scale * cos(image, class text) + logit_bias; nothing is fitted, so there are no folds.

    Args:
        view: A teacher with a text tower and stored class texts.
        output: The rows of images, in the texts' space.
        name: Of the head.
        class_set: Of the output ``text``; None for the only one.

    Raises:
        StoreError: The teacher has no logit scale, or its texts are of another space or lack a class.
        UnknownNameError: There is no such class set.
    """
    spec, texts = view.spec, view.spec.output(TEXT)
    images = spec.output(output)
    if spec.logit_scale is None or texts is None or images is None or images.dim != texts.dim:
        raise StoreError(
            f"{spec.name} has no common space of {output} and text with a logit scale; "
            "make a linear head with --kind linear, or take a CLIP-like teacher"
        )
    found = view.class_set(class_set, TEXT)
    if not found.prompts:
        raise StoreError(f"class set '{found.name}' of text holds no prompts; make one with embedkd precompute")
    means = found.mean.astype(np.float64)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise StoreError(f"class set '{found.name}' of text lacks a class; make it again from all class names")
    weight = spec.logit_scale * means / lengths
    return Head(
        name=name,
        kind="zero-shot",
        output=output,
        weight=weight.astype(np.float32)[None],
        bias=np.full((1, len(means)), spec.logit_bias or 0.0, np.float32),
        normalise=True,
        folds=0,
        seed=0,
        l2=None,
        made_from=blake2b_hex(canonical_json([found.name, found.commits, blake2b_hex(found.mean.tobytes())])),
    )
