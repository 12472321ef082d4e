"""A card: what a store is, for people, in Markdown. It says the same whenever it is made of the same store."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from embedkd.errors import printable
from embedkd.records import RowStatus
from embedkd.store.access import put_or_keep
from embedkd.store.classes import averaged_outputs, set_names
from embedkd.store.heads import head_names, read_head
from embedkd.store.measured import MeasuredError
from embedkd.store.reader import open_store
from embedkd.store.siblings import view_groups, without_views

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embedkd.storage import Storage
    from embedkd.store.reader import EmbeddingStore
    from embedkd.store.siblings import ViewGroup
    from embedkd.store.view import TeacherView

FILE = "README.md"
_SHOWN_CLASSES = 20
_SHOWN_CHARACTERS = 200
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:@])")


def write_card(storage: "Storage", *, dry_run: bool = False) -> str:
    """Write the card into the store's folder, in place of an older one.

    It is no part of the store: copies leave it out, and Zarr readers that list the root group warn about it.

    Returns:
        The card.

    Raises:
        StoreError: Something of the store is broken.
    """
    text = card(open_store(storage))
    if not dry_run and put_or_keep(storage, FILE, text.encode()) != text.encode():
        storage.replace(FILE, text.encode())
    return text


def card(store: "EmbeddingStore") -> str:
    """The card of a store.

    Raises:
        StoreError: Something of the store is broken.
    """
    specs = store.teachers
    views = [store.teacher(name) for name in without_views(specs)]
    sections = [
        "# Embedding store",
        "What teacher models say of the samples of a data set, in Zarr, made by embedkd to train students with.",
        *_data(store),
        *(line for view in views for line in _teacher(view, view_groups(specs, view.teacher_id))),
        *_use(views),
    ]
    return "\n\n".join(sections) + "\n"


def escaped(text: str) -> str:
    r"""Text of a stranger as Markdown that shows it and does nothing else.

    >>> print(escaped("[a](javascript:x) <b>|\n"))
    \[a\]\(javascript\:x\) &lt;b&gt;\|\\n
    """
    shown = printable(text, _SHOWN_CHARACTERS)
    entities = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", entities)


def _data(store: "EmbeddingStore") -> "Iterable[str]":
    splits: Counter[str] = Counter()
    for slot in store.slots:
        splits[slot.shard.split] += slot.rows
    named = store.class_names
    classes = "not named"
    if named is not None:
        shown = ", ".join(escaped(name) for name in named[:_SHOWN_CLASSES])
        classes = f"{len(named)}: {shown}{', ...' if len(named) > _SHOWN_CLASSES else ''}"
    sealed = "no" if store.catalogue is None else f"yes, number {store.catalogue.number}"
    yield "## Data"
    yield _table(
        ("", ""),
        [
            ("shards", f"{len(store.shards)}, {_size(sum(shard.size_bytes for shard in store.shards))}"),
            ("samples", f"{splits.total()} ({', '.join(f'{count} {split}' for split, count in splits.items())})"),
            ("classes", classes),
            ("where the shards lay", escaped(store.manifest.root)),
            ("store", escaped(store.uuid)),
            ("manifest", f"generation {store.manifest.generation}, `{store.manifest.digest}`"),
            ("sealed", sealed),
        ],
    )


def _teacher(view: "TeacherView", groups: "Sequence[ViewGroup]") -> "Iterable[str]":
    spec = view.spec
    yield f"## Teacher {escaped(spec.title)}"
    facts = [
        ("model", spec.model),
        ("weights from", spec.source),
        ("revision", spec.revision or "not known"),
        ("licence of the weights", spec.licence or "not given: ask before you use it"),
        ("made of", spec.derived_from or "-"),
        ("precision", spec.precision),
        ("images", str(spec.preprocess)),
        ("libraries", ", ".join(" ".join(pair) for pair in spec.libraries) or "not known"),
        *(("stored views", str(group)) for group in groups),
    ]
    rows = [(name, escaped(value)) for name, value in facts]
    rows += [("weights, SHA-256", escaped(spec.weights_sha256)), ("fingerprint", f"`{spec.fingerprint}`")]
    if spec.random_weights:
        rows.append(("note", "**the weights were drawn, not trained**"))
    yield _table(("", ""), rows)
    yield "### Rows"
    yield _table(
        ("output", "width", "encoding", "slots", "with an embedding", "without", "size", "1 - cosine: mean, most"),
        [
            *(_output(f"`{output}`", [view], output) for output in view.outputs),
            *(row for group in groups for row in _views(view.store, group)),
        ],
    )
    yield from _quality(view)


def _views(store: "EmbeddingStore", group: "ViewGroup") -> "Iterable[tuple[str, ...]]":
    """A row an output, for all views of a kind together."""
    views = [store.teacher(name) for name in group.ids]
    for output in sorted({name for view in views for name in view.outputs}):
        having = [view for view in views if output in view.outputs]
        yield _output(f"`{output}` of {len(having)} views", having, output)


def _output(name: str, views: "Sequence[TeacherView]", output: str) -> tuple[str, ...]:
    """One output of a teacher, or of several views of it."""
    spec, counts = views[0].spec.output(output), [view.counts(output) for view in views]
    error = MeasuredError.joined(view.error(output) for view in views)
    lost: Counter[str] = Counter()
    for count in counts:
        lost.update({reason: int(column.sum()) for reason, column in count.bad.items()})
    bad = [f"{rows} {escaped(reason.replace('_', ' '))}" for reason, rows in sorted(lost.items())]
    return (
        name,
        str(spec.dim if spec is not None else 0),
        spec.encoding if spec is not None else "",
        f"{sum(int(count.committed.sum()) for count in counts)} of {len(views) * len(views[0].store.slots)}",
        str(sum(int(count.ok.sum()) for count in counts)),
        ", ".join(bad) or "none",
        _size(sum(_stored_bytes(view, output) for view in views)),
        f"{error.mean:.1e}, {error.max:.1e}",
    )


def _stored_bytes(view: "TeacherView", output: str) -> int:
    """Bytes of the objects of an output and its status."""
    total = 0
    for slot in view.store.slots:
        commit = view.commit(slot, output)
        if commit is not None:
            keys = {schema.chunk_key(slot.index) for schema in view.output_schemas(output)}
            total += sum(record.size_bytes for record in commit.objects if record.key in keys)
    return total


def _quality(view: "TeacherView") -> "Iterable[str]":
    """What class sets and heads say."""
    rows = []
    for output in averaged_outputs(view):
        for name in set_names(view, output):
            made = view.class_set(name, output)
            filled = made.count > 0
            spread = float(made.spread[filled].mean()) if filled.any() else float("nan")
            kind = (
                f"texts of {len(made.prompts)} prompts" if made.prompts else f"up to {made.samples_per_class} samples"
            )
            rows.append(
                (f"`{name}`", f"`{output}`", kind, f"{int(filled.sum())} of {len(made.count)}", f"{spread:.4g}")
            )
    if rows:
        yield "### Class means"
        yield _table(("set", "output", "of", "classes with rows", "mean spread"), rows)
    heads = [read_head(view, name) for name in head_names(view)]
    if heads:
        yield "### Heads"
        found = [(f"`{h.name}`", h.kind, f"`{h.output}`", str(h.classes), str(h.folds)) for h in heads]
        yield _table(("head", "kind", "reads", "classes", "folds"), found)


def _use(views: "Sequence[TeacherView]") -> "Iterable[str]":
    teacher = f" --set train.teacher={views[0].teacher_id}" if len(views) > 1 else ""
    output = views[0].outputs[0] if views and views[0].outputs else "cls"
    yield "## Use"
    yield (
        "```sh\nembedkd store info STORE\nembedkd store verify STORE\n"
        f"embedkd train --targets STORE --student vit-base --data SHARDS{teacher}\n```"
    )
    named = f'"{views[0].teacher_id}"' if views else ""
    yield (
        "```python\nfrom embedkd.store import open_store\n\n"
        f'view = open_store("STORE").teacher({named})\nread = view.read(0, "{output}")\n'
        f"rows = read.rows[read.status == {RowStatus.OK.value}]\n```"
    )
    yield "Use rows with status 1 alone. Anyone can edit this page; what counts is what `embedkd store verify` says."


def _table(header: "Sequence[str]", rows: "Iterable[Sequence[str]]") -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _size(number: float) -> str:
    """Bytes for people.

    >>> _size(999), _size(3_500_000)
    ('999 B', '3.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit != "B" else f"{int(number)} B"
        number /= 1000
    return f"{number:.3g} TB"
