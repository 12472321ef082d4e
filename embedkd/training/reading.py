"""How many bytes an epoch reads of shards and stores."""

from typing import TYPE_CHECKING

from embedkd.store import TeacherView, open_store

if TYPE_CHECKING:
    from embedkd.join import Samples


def shard_bytes(samples: "Samples") -> int:
    """Of the tars that samples lie in: an epoch reads each sample once, which is these bytes but for the tars' ends.

    Of a tar that is used in part (samples held out or left out, a slot of several) it is that part.
    """
    rows: dict[str, int] = {}
    for slot, count in zip(samples.slots, samples.counts, strict=True):
        rows[slot.shard.url] = rows.get(slot.shard.url, 0) + count
    shards = {slot.shard.url: slot.shard for slot in samples.slots}
    return sum(round(shards[url].size_bytes * count / shards[url].rows) for url, count in rows.items())


def target_bytes(samples: "Samples") -> int:
    """Of the stored rows that an epoch reads in one process, with their keys, places and status.

    Raises:
        StoreError: A store cannot be opened, or a slot has no commit.
    """
    if samples.store is None or samples.teacher_id is None:
        return 0
    if not samples.targets:
        view = TeacherView(open_store(samples.store), samples.teacher_id)
        return _objects(view, view.outputs[0], samples, rows=False)
    return sum(
        _objects(TeacherView(open_store(target.store), target.teacher_ids[0]), target.output, samples, rows=True)
        for target in samples.targets
    )


def _objects(view: TeacherView, output: str, samples: "Samples", *, rows: bool) -> int:
    """Of the objects of one output, in the slots of a store that hold the samples' tars."""
    used = {(slot.shard.size_bytes, slot.shard.blake2b) for slot in samples.slots}
    schemas = (*view.row_schemas(), *view.output_schemas(output)[0 if rows else -1 :])
    total = 0
    for slot in view.store.slots:
        if (slot.shard.size_bytes, slot.shard.blake2b) in used:
            commit = view.committed(slot, output)
            total += sum(commit.record(schema.chunk_key(slot.index)).size_bytes for schema in schemas)
    return total
