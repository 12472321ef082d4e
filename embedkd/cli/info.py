"""``embedkd store info``: what is in a store, on a screen or as JSON."""

from collections import defaultdict
from typing import Any

from embedkd.cli.options import AsJson, StorePath
from embedkd.cli.output import print_json, print_rows, say
from embedkd.errors import printable

_SHOWN_CLASSES, _SHOWN_CHARACTERS = 5, 24


def info_command(store: StorePath, as_json: AsJson = False) -> None:
    """What is in a store."""
    from embedkd.precompute import describe_store

    facts = describe_store(store)
    if as_json:
        print_json(facts)
        return
    say(facts["store"])
    _print_fields(
        {
            "data": _data(facts),
            "classes": _classes(facts["classes"]),
            "store": _state(facts),
            "id": facts["store_uuid"],
        }
    )
    if not facts["teachers"]:
        say("\nno teacher's rows yet; next: embedkd precompute")
    for teacher in facts["teachers"]:
        _print_teacher(teacher, facts)


def _data(facts: dict[str, Any]) -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in facts["splits"].items() if count)
    grown = f"; appended to {_times(facts['generation'])}" if facts["generation"] else ""
    return f"{facts['data']}: {facts['shards']:,} shards, {facts['rows']:,} samples ({splits}){grown}"


def _classes(names: list[str] | None) -> str:
    if names is None:
        return "not named"
    shown = ", ".join(printable(name, _SHOWN_CHARACTERS) for name in names[:_SHOWN_CLASSES])
    return f"{len(names):,}: {shown}{', ...' if len(names) > _SHOWN_CLASSES else ''}"


def _state(facts: dict[str, Any]) -> str:
    sealed = "not sealed" if facts["sealed"] is None else f"sealed {_times(facts['sealed'] + 1)}"
    return f"format {facts['format']}, {facts['slots']:,} slots of up to {facts['capacity']:,} rows, {sealed}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _print_teacher(teacher: dict[str, Any], facts: dict[str, Any]) -> None:
    say(f"\n{teacher['name']}")
    weights = "random weights" if teacher["random_weights"] else f"weights {teacher['weights_sha256'][:8]}"
    _print_fields(
        {
            "id": teacher["id"],
            "model": f"{teacher['model']}, {teacher['precision']}",
            "from": f"{teacher['source']}, {weights}, {teacher['licence'] or 'licence not given'}",
        }
    )
    outputs = teacher["outputs"]
    rows = [
        (
            *(f"  {output['name']}", str(output["dim"]), output["encoding"]),
            *(f"{output['committed']}/{facts['slots']}", f"{output['usable']}/{facts['rows']}"),
            *(f"{output['error'][which]:.1e}" if output["usable"] else "-" for which in ("mean", "max")),
        )
        for output in outputs
    ]
    print_rows(("  output", "width", "encoding", "slots", "usable rows", "error", "largest"), rows)
    for group in teacher["views"]:
        _print_views(group, facts)
    _print_class_sets(outputs)
    for output, names in teacher["other_class_sets"].items():
        say(f"  class sets of {output}, which has no rows: {', '.join(names)}")
    unfinished = [
        output
        for slots, of in ((facts["slots"], teacher), *((_slots_of(group, facts), group) for group in teacher["views"]))
        for output in of["outputs"]
        if output["committed"] < slots
    ]
    if unfinished:
        say("  not finished; next: embedkd precompute again")


def _slots_of(group: dict[str, Any], facts: dict[str, Any]) -> int:
    """Slots that views of one kind have together."""
    return int(facts["slots"]) * len(group["ids"])


def _print_views(group: dict[str, Any], facts: dict[str, Any]) -> None:
    """One line for all views of a kind."""
    from embedkd.records import ViewSpec
    from embedkd.store.siblings import ViewGroup

    drawn = (group["min_crop_area"], group["flip"])
    views = ViewGroup(tuple(ViewSpec(group["seed"], index, *drawn) for index in group["indices"]), tuple(group["ids"]))
    slots = _slots_of(group, facts)
    held = ", ".join(f"{output['name']} {output['committed']}/{slots} slots" for output in group["outputs"])
    say(f"  views: {views}; {held or 'nothing yet'}")


def _print_class_sets(outputs: list[dict[str, Any]]) -> None:
    """One line for all outputs that have the same ones."""
    same: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for output in outputs:
        old = output["outdated_class_sets"]
        shown = [f"{name} (made before the last append)" if name in old else name for name in output["class_sets"]]
        same[tuple(shown)].append(output["name"])
    for names, of in same.items():
        if names:
            whose = "all outputs" if len(of) == len(outputs) > 1 else ", ".join(of)
            say(f"  class sets of {whose}: {', '.join(names)}")


def _print_fields(fields: dict[str, str]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        say(f"  {name.ljust(width)}  {value}")
