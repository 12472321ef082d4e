"""``embedkd store seal | append | merge | subset | copy | diff | repair | card``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from embedkd.cli.options import AsJson
from embedkd.cli.output import print_json, print_rows, say
from embedkd.cli.progress import watcher
from embedkd.errors import ConfigError, StoreError

StorePath = Annotated[str, typer.Argument(metavar="STORE", help="The embedding store: a path or URL.")]
Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="Where the new store shall be; an unfinished one goes on.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
Shards = Annotated[str, typer.Option(help="Shards, old and new ones: a folder, a glob, or a pattern.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``embedkd store``."""
    app.command("seal")(seal_command)
    app.command("append")(append_command)
    app.command("merge")(merge_command)
    app.command("subset")(subset_command)
    app.command("copy")(copy_command)
    app.command("diff")(diff_command)
    app.command("repair")(repair_command)
    app.command("card")(card_command)


def seal_command(store: StorePath, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Index everything that is committed: the store opens fast, and over plain HTTP."""
    from embedkd.storage import open_storage
    from embedkd.store import seal_store

    report = seal_store(open_storage(store), progress=watcher(), dry_run=dry_run)
    if as_json:
        print_json({"store": store, "dry_run": dry_run, **asdict(report)})
        return
    if not report.new:
        say(f"{store} is sealed as it is: seal {report.number}, {report.digest}")
        return
    say(f"{store}: seal {report.number}{_would(dry_run)}, {report.index_bytes} bytes of indexes, {report.digest}")
    rows = [
        (teacher, run, f"{n}/{report.slots}", output, f"{error.mean:.1e}", f"{error.max:.1e}")
        for teacher, of in report.passes.items()
        for run, n in of.items()
        for output, error in report.errors[teacher][run].items()
    ]
    print_rows(("teacher", "pass", "slots", "output", "error", "largest"), rows)


def append_command(store: StorePath, data: Shards, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Add new shards to a store; embedkd precompute then computes their rows."""
    from embedkd.sources.shards import index_shards, list_data
    from embedkd.store import append_shards, open_store

    opened, listing, watch = open_store(store), list_data(data), watcher()
    if listing.classes is not None and listing.classes != opened.class_names:
        raise StoreError(f"{data} names other classes than {store}; labels would not mean the same")
    known = {(shard.url, shard.size_bytes) for shard in opened.shards}
    given = set(zip(listing.names, listing.sizes_bytes, strict=True))
    if not _same_place(listing.root, opened.data_root) and not known <= given:
        raise StoreError(
            f"{store} remembers its shards at {opened.data_root}; put the new ones there, or give all with --data"
        )
    if listing.indexed:
        shards = listing.indexed
    else:
        watch.begin("index", len(listing.names), "shards")
        try:
            shards = index_shards(listing, lambda _: watch.advance(1))
        finally:
            watch.end()
    report = append_shards(opened.storage, shards, progress=watch, dry_run=dry_run)
    if as_json:
        print_json({"store": store, "dry_run": dry_run, **asdict(report)})
    elif not report.shards:
        say(f"{store} has all {len(shards)} shards already; nothing to append")
    else:
        say(f"{store}: {report.shards} shards, {report.rows} samples appended{_would(dry_run)}")
        say("next: embedkd precompute with the same teacher and --out, then embedkd store seal")


def merge_command(
    parts: Annotated[list[str], typer.Argument(metavar="PART...", help="The stores that are merged.")],
    out: Annotated[str, typer.Option(help="Where the merged store shall be; an unfinished one goes on.")],
    data: Annotated[
        str | None, typer.Option(help="Where the shards lie, if the parts remember several places.")
    ] = None,
    capacity: Annotated[int | None, typer.Option(help="Rows a slot; the first part's by default.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make one store of parts that the same teachers made of shards of the same data."""
    from embedkd.storage import open_storage
    from embedkd.store import merge_stores

    report = merge_stores(
        [open_storage(part) for part in parts],
        open_storage(out),
        root=data,
        capacity=capacity,
        progress=watcher(),
        dry_run=dry_run,
    )
    if as_json:
        print_json({"store": out, "dry_run": dry_run, **asdict(report)})
        return
    say(f"{out}: {report.shards} shards in {report.slots} slots of up to {report.capacity} rows{_would(dry_run)}")
    say(f"  slots of passes: {report.written} written, {report.present} there already, {report.holes} missing")
    if report.class_sets:
        say(f"  {report.class_sets} class sets are not merged; next: embedkd average {out}")


def subset_command(
    store: StorePath,
    target: Target,
    classes: Annotated[str | None, typer.Option(help="Comma-separated names or numbers of classes.")] = None,
    keys: Annotated[Path | None, typer.Option(help="File with one sample key a line.")] = None,
    slots: Annotated[str | None, typer.Option(help="Numbers of slots, such as 0,4-7.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a store of some of the samples; each keeps its place, so the same shards are joined with it."""
    from embedkd.storage import open_storage
    from embedkd.store import Selection, labels_of, open_store, subset_store

    if classes is None and keys is None and slots is None:
        raise ConfigError("nothing says what to keep; give --classes, --keys or --slots")
    selection = Selection(
        None if classes is None else labels_of(open_store(store), [name.strip() for name in classes.split(",")]),
        None if keys is None else _keys_in(keys),
        None if slots is None else _numbers(slots),
    )
    report = subset_store(open_storage(store), open_storage(target), selection, progress=watcher(), dry_run=dry_run)
    if as_json:
        print_json({"store": target, "dry_run": dry_run, **asdict(report)})
        return
    say(f"{target}: {report.kept} of {report.rows} samples in {report.shards} shards{_would(dry_run)}")
    say(f"  slots of passes: {report.written} written, {report.present} there already")


def copy_command(store: StorePath, target: Target, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Copy what is missing, checked where it comes from and on arrival."""
    from embedkd.storage import open_storage
    from embedkd.store import copy_store

    report = copy_store(open_storage(store), open_storage(target), progress=watcher(), dry_run=dry_run)
    if as_json:
        print_json({"store": store, "target": target, "dry_run": dry_run, **asdict(report)})
    else:
        say(
            f"{target}: {report.objects} objects, {report.bytes} bytes copied{_would(dry_run)}; "
            f"{report.present} were there already"
        )


def diff_command(
    store: StorePath,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The store to compare it with.")],
    teacher: Annotated[str | None, typer.Option(help="Compare this teacher of STORE ...")] = None,
    with_teacher: Annotated[str | None, typer.Option("--with", help="... with this one of OTHER.")] = None,
    as_json: AsJson = False,
) -> None:
    """What two stores have in common, and how well their rows agree."""
    from embedkd.storage import open_storage
    from embedkd.store import diff_stores

    pairs = [] if teacher is None else [(teacher, with_teacher or teacher)]
    if teacher is None and with_teacher is not None:
        raise ConfigError("--with says what to compare a teacher with; name that one with --teacher")
    found = diff_stores(open_storage(store), open_storage(other), pairs=pairs, progress=watcher())
    facts = asdict(found)
    if as_json:
        print_json({"store": store, "other": other, **_without_nan(facts)})
        return
    say(f"shards: {found.shards} in both, {len(found.only[0])} in {store} alone, {len(found.only[1])} in {other} alone")
    for url in found.changed:
        say(f"  {url} is another shard")
    for same, what in ((found.same_classes, "class names"), (found.same_decoding, "decode policies")):
        if not same:
            say(f"other {what}")
    for place, names in zip((store, other), found.only_teachers, strict=True):
        for name in names:
            say(f"teacher {name} is in {place} alone")
    rows = [
        (
            o.output if o.teachers[0] == o.teachers[1] else f"{o.output} ({' / '.join(o.teachers)})",
            str(o.rows),
            str(o.equal),
            str(o.only[0]),
            str(o.only[1]),
            str(o.other_keys),
            *(f"{value:.6f}" for value in (o.cosine_mean, o.cosine_percentiles["1"], o.cosine_min)),
        )
        for o in found.outputs
    ]
    print_rows(("output", "rows", "equal", "only 1st", "only 2nd", "other keys", "mean cosine", "1 %", "least"), rows)


def repair_command(store: StorePath, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Drop what is broken, so that embedkd precompute makes it again; what is whole is never touched."""
    from embedkd.storage import open_storage
    from embedkd.store import repair_store

    report = repair_store(open_storage(store), progress=watcher(), dry_run=dry_run)
    if as_json:
        print_json({"store": store, "dry_run": dry_run, **asdict(report)})
        return
    for problem in report.problems:
        say(problem)
    dropped = [*report.objects, *report.commits, *report.parts]
    for verb, keys in (("restored", report.metadata), ("dropped", dropped)):
        for key in keys:
            say(f"{'would be ' * dry_run}{verb}: {key}")
    if report.commits or report.objects:
        say("next: embedkd precompute with the same teacher and --out")
    if report.parts:
        say("next: embedkd average and embedkd head, with the same settings, make class sets and heads again")
    if not dropped and not report.metadata and not report.problems:
        say(f"{store} has nothing to repair")


def card_command(store: StorePath, dry_run: DryRun = False) -> None:
    """Write README.md into the store's folder: teacher, data, licence, sizes, quality, how to use it."""
    from embedkd.storage import open_storage
    from embedkd.store import write_card

    text = write_card(open_storage(store), dry_run=dry_run)
    say(text if dry_run else f"{store}/README.md")


def _would(dry_run: bool) -> str:
    return " (not done: --dry-run)" if dry_run else ""


def _same_place(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()


def _keys_in(path: Path) -> frozenset[int]:
    """Hashes of the keys in a file.

    Raises:
        ConfigError: It cannot be read.
    """
    from embedkd.records import key_hash

    try:
        return frozenset(key_hash(line) for line in path.read_text("utf-8").splitlines() if line)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read keys from {path}: {error}") from error


def _numbers(text: str) -> frozenset[int]:
    """Numbers and ranges, both ends included.

    Raises:
        ConfigError: It is something else.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [first, last] if dash else [first, first]
        if not all(end.isascii() and end.isdigit() and len(end) < 10 for end in ends):
            raise ConfigError(f"expected slots such as 0,4-7, got {text!r}")
        found.update(range(int(ends[0]), int(ends[1]) + 1))
    return frozenset(found)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: where there are no rows there is no cosine."""
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if value != value else value
