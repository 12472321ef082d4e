"""The teacher that a head makes of another one: its only output is the head's logits, stored like any other rows."""

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from embedkd.records import OutputSpec, RowStatus, TeacherSpec, canonical_json
from embedkd.store import Pass, PassWriter, SlotRows, TeacherView

if TYPE_CHECKING:
    from embedkd.progress import Progress
    from embedkd.store import Slot
    from embedkd.store.heads import Head

LOGITS = "logits"
DEVICE = "head"


def derived_spec(base: TeacherSpec, head: "Head") -> TeacherSpec:
    """The specification of the teacher that a head makes of another.

    Its name is the other's with ``+`` and the head's name, in front of an ``@``; its digest covers the head and the
    other's fingerprint. Of a stored view it makes the same view of what it makes of the teacher.
    """
    if base.view is not None:
        return replace(derived_spec(base.plain, head), view=base.view)
    model, at, weights = base.name.partition("@")
    facts = [base.fingerprint, head.output, head.sha256]
    return replace(
        base,
        name=f"{model}+{head.name}{at}{weights}",
        model=f"{head.kind} head on {head.output} of {base.fingerprint}",
        weights_sha256=hashlib.sha256(canonical_json(facts)).hexdigest(),
        outputs=(OutputSpec(LOGITS, head.classes),),
        normalised=False,
        layers=0,
        tokenizer=None,
        logit_scale=None,
        logit_bias=None,
        derived_from=f"{base.name} {base.fingerprint}",
    )


def write_logits(view: TeacherView, head: "Head", watch: "Progress") -> TeacherView:
    """Commit the logits of every slot that has none yet; what is there is left as it is.

    Args:
        view: The teacher that the head was made for, or a stored view of it, complete for the head's output.
        head: The head.
        watch: Who watches.

    Raises:
        HoleError: A slot of the teacher has no commit.
        ConflictError: Another writer put something else.
    """
    spec = derived_spec(view.spec, head)
    writer = PassWriter(view.store, spec, Pass((LOGITS,), 1, 1, DEVICE))
    left = [slot for slot in view.store.slots if not writer.is_committed(slot)]
    watch.begin(f"logits of {view.spec.title}", sum(slot.rows for slot in left), "rows")
    try:
        for slot in left:
            writer.write(slot, slot_logits(view, head, slot), {"process": str(os.getpid())})
            watch.advance(slot.rows)
    finally:
        watch.end()
    return TeacherView(view.store, spec.teacher_id)


def slot_logits(view: TeacherView, head: "Head", slot: "Slot") -> SlotRows:
    """What a head says of one slot; rows that the teacher lacks keep their status."""
    read, shard = view.read(slot, head.output), slot.shard
    said = head.logits(read.rows, read.keys, shard.split)
    lost = (read.status == RowStatus.OK) & ~np.isfinite(said).all(axis=1)
    said[read.status != RowStatus.OK] = np.nan
    status = np.where(lost, RowStatus.NON_FINITE, read.status).astype(np.uint8)
    return SlotRows(
        keys=read.keys,
        labels=read.labels,
        places=read.places,
        outputs={LOGITS: said},
        status={LOGITS: status},
        source={"url": shard.url, "bytes": shard.size_bytes, "blake2b": shard.blake2b},
    )
