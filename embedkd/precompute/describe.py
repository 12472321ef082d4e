"""What is in a store, for people and scripts."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from embedkd.store import EmbeddingStore, MeasuredError, TeacherView, open_store, set_names
from embedkd.store.classes import averaged_outputs, is_outdated
from embedkd.store.siblings import ViewGroup, view_groups, without_views

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedkd.records import TeacherSpec


def describe_store(location: str) -> dict[str, Any]:
    """Facts about a store as JSON values: data, splits, teachers with their views, coverage, class sets.

    Raises:
        StoreError: There is no store, or its metadata cannot be trusted.
    """
    store = open_store(location)
    specs = store.teachers
    splits: Counter[str] = Counter()
    for slot in store.slots:
        splits[slot.shard.split] += slot.rows
    return {
        "store": store.storage.url,
        "format": 1,
        "store_uuid": store.uuid,
        "capacity": store.capacity,
        "generation": store.manifest.generation,
        "sealed": None if store.catalogue is None else store.catalogue.number,
        "data": store.manifest.root,
        "shards": len(store.shards),
        "slots": len(store.slots),
        "rows": splits.total(),
        "splits": dict(splits),
        "classes": None if store.class_names is None else list(store.class_names),
        "teachers": [_teacher(store, teacher_id, specs) for teacher_id in without_views(specs)],
    }


def _teacher(store: EmbeddingStore, teacher_id: str, specs: "Mapping[str, TeacherSpec]") -> dict[str, Any]:
    view = TeacherView(store, teacher_id)
    spec = view.spec
    return {
        "id": teacher_id,
        "name": spec.title,
        "model": spec.model,
        "weights_sha256": spec.weights_sha256,
        "source": spec.source,
        "licence": spec.licence,
        "precision": spec.precision,
        "random_weights": spec.random_weights,
        "outputs": [_output(view, name) for name in view.outputs],
        "other_class_sets": {
            output: set_names(view, output) for output in averaged_outputs(view) if output not in view.outputs
        },
        "views": [_views(store, group) for group in view_groups(specs, teacher_id)] if spec.view is None else [],
    }


def _views(store: EmbeddingStore, group: ViewGroup) -> dict[str, Any]:
    """Views that differ in their index alone: what all of them hold together."""
    views = [TeacherView(store, teacher_id) for teacher_id in group.ids]
    first = group.views[0]
    return {
        "seed": first.seed,
        "min_crop_area": first.min_crop_area,
        "flip": first.flip,
        "indices": [view.index for view in group.views],
        "ids": list(group.ids),
        "outputs": [_of_views(views, name) for name in sorted({name for view in views for name in view.outputs})],
    }


def _of_views(views: list[TeacherView], name: str) -> dict[str, Any]:
    """One output of those views that have it."""
    having = [view for view in views if name in view.outputs]
    counts = [view.counts(name) for view in having]
    return {
        "name": name,
        "committed": sum(int(count.committed.sum()) for count in counts),
        "usable": sum(int(count.ok.sum()) for count in counts),
        "error": MeasuredError.joined(view.error(name) for view in having).to_json(),
    }


def _output(view: TeacherView, name: str) -> dict[str, Any]:
    spec = view.spec.output(name)
    counts, sets = view.counts(name), set_names(view, name)
    return {
        "name": name,
        "dim": spec.dim if spec is not None else None,
        "encoding": spec.encoding if spec is not None else None,
        "committed": int(counts.committed.sum()),
        "usable": int(counts.ok.sum()),
        "error": view.error(name).to_json(),
        "class_sets": sets,
        "outdated_class_sets": [one for one in sets if is_outdated(view, one, name)],
    }
