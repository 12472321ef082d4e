"""Whether stores belong together: made of the same tars, decoded alike, their labels meaning the same."""

from typing import TYPE_CHECKING

from embedkd.errors import JoinError
from embedkd.join.targets import Places, tar_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedkd.records import Shard, Split
    from embedkd.store import EmbeddingStore

_SHOWN = 3


def common_shards(
    stores: "Sequence[EmbeddingStore]", split: "Split", *, allow_partial: bool
) -> "tuple[Places, dict[str, int]]":
    """The shards of a split that all stores hold, found by their bytes.

    Args:
        stores: At least one; the same one may come twice.
        split: Which split.
        allow_partial: Leave out what is not in all of them, instead of refusing.

    Returns:
        The shards, and the samples that are left out, by reason.

    Raises:
        JoinError: The stores were made of other data, or of other parts of it.
    """
    different = list({id(store): store for store in stores}.values())
    for store in different[1:]:
        _check_meaning(different[0], store)
    held = [Places(store.slots) for store in different]
    everything = {tar_of(s): s for store in different for s in store.shards if s.split == split}
    lacking = {
        store.storage.url: [shard for shard in everything.values() if shard not in places]
        for store, places in zip(different, held, strict=True)
    }
    missing = {tar_of(shard) for shards in lacking.values() for shard in shards}
    if missing and (not allow_partial or len(missing) == len(everything)):
        raise JoinError(_difference(split, lacking, everything=len(everything), missing=len(missing)))
    slots = [slot for slot in different[0].slots if tar_of(slot.shard) not in missing]
    left_out = {f"not in {url}": sum(shard.rows for shard in shards) for url, shards in lacking.items() if shards}
    return Places([slot for slot in slots if slot.shard.split == split]), left_out


def lead_among(stores: "Sequence[EmbeddingStore]", shared: Places) -> int:
    """Which store's slots are read: a function of what the stores hold, not of their order."""
    slots = [[(s.shard.blake2b, s.start, s.rows) for s in store.slots if s.shard in shared] for store in stores]
    return slots.index(min(slots))


def _difference(split: str, lacking: "dict[str, list[Shard]]", *, everything: int, missing: int) -> str:
    if missing == everything:
        return (
            f"{' and '.join(lacking)} have no {split} shard in common; expected stores of the same tars, compared by "
            "their bytes"
        )
    url, shards = next((url, shards) for url, shards in lacking.items() if shards)
    shown = ", ".join(shard.url for shard in shards[:_SHOWN]) + (", ..." if len(shards) > _SHOWN else "")
    return (
        f"{url} covers {everything - len(shards)} of {everything} {split} shards (it lacks {shown}); precompute the "
        "rest, or leave it out with --allow-partial"
    )


def _check_meaning(mine: "EmbeddingStore", theirs: "EmbeddingStore") -> None:
    """Compare decoding, splits and class names."""
    places = f"{mine.storage.url} and {theirs.storage.url}"
    if mine.policy != theirs.policy:
        raise JoinError(f"the images of {places} were decoded in other ways ({mine.policy}, {theirs.policy})")
    splits = {tar_of(shard): shard.split for shard in mine.shards}
    for shard in theirs.shards:
        if splits.get(tar_of(shard), shard.split) != shard.split:
            raise JoinError(
                f"{shard.url} is of the split {splits[tar_of(shard)]} in {mine.storage.url} and of {shard.split} in "
                f"{theirs.storage.url}; a student would learn what it is tested on"
            )
    ours, other = mine.class_names, theirs.class_names
    if ours is not None and other is not None and ours != other:
        raise JoinError(f"{places} are of other classes: {_first_difference(ours, other)}")


def _first_difference(mine: "Sequence[str]", theirs: "Sequence[str]") -> str:
    if len(mine) != len(theirs):
        return f"{len(mine)} and {len(theirs)}"
    label = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
    return f"label {label} is {mine[label]!r} and {theirs[label]!r}"
