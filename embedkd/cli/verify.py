"""``embedkd store verify``: is a store whole, and does it say what its teacher says?"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedkd.cli.options import AsJson, Data
from embedkd.cli.output import print_json, print_rows, say
from embedkd.cli.progress import watcher
from embedkd.errors import IntegrityError

if TYPE_CHECKING:
    from embedkd.store import EmbeddingStore


def verify_command(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The embedding store.")],
    live: Annotated[
        int, typer.Option(min=0, metavar="K", help="Also run the teacher again on K random samples and compare.")
    ] = 0,
    teacher: Annotated[
        str | None, typer.Option(help="For --live: the teacher's name or path, where the recorded one has moved.")
    ] = None,
    of: Annotated[str | None, typer.Option(help="One teacher of the store; all by default.")] = None,
    data: Data = None,
    device: Annotated[str, typer.Option(help="For --live: auto, cpu, cuda or cuda:N.")] = "auto",
    trust_code: Annotated[
        str | None, typer.Option(help="For --live: the repository or folder whose own model code may be run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For --live: chooses the samples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read everything and compare it with its commits; with --live, also with the teacher itself."""
    from embedkd.live_verify import verify_live
    from embedkd.precompute.hardware import resolve_device
    from embedkd.store import open_store
    from embedkd.store.heads import is_derived

    opened = open_store(store)
    found: list[dict[str, Any]] = []
    for teacher_id in [opened.teacher(of).teacher_id] if of else opened.teacher_ids:
        report = _read_all(opened, teacher_id)
        if live and not report["problems"] and not is_derived(opened.teacher(teacher_id).spec):
            checks = verify_live(
                opened.teacher(teacher_id),
                live,
                teacher=teacher,
                data=data,
                device=resolve_device(device),
                trusted_code=trust_code,
                seed=seed,
                progress=watcher(),
            )
            report["live"] = [{**asdict(check), "passed": check.passed} for check in checks]
        found.append(report)
    problems = _compare_digests(opened)
    if as_json:
        print_json({"store": opened.storage.url, "teachers": found, "problems": problems})
    else:
        for report in found:
            _show(report)
        for problem in problems:
            say(problem)
    _refuse(opened, found, problems)


def _read_all(store: "EmbeddingStore", teacher_id: str) -> dict[str, Any]:
    from embedkd.store import check_output

    view, watch = store.teacher(teacher_id), watcher()
    checks = []
    for output in view.outputs:
        watch.begin(f"read {output}", len(store.slots), "slots")
        try:
            checks.append(check_output(view, output, lambda: watch.advance(1)))
        finally:
            watch.end()
    problems = [f"{check.output}, {problem}" for check in checks for problem in check.problems]
    return {"id": teacher_id, "outputs": [asdict(check) for check in checks], "problems": problems, "live": []}


def _compare_digests(store: "EmbeddingStore") -> list[str]:
    from embedkd.store import check_objects

    watch = watcher()
    watch.begin(
        "compare digests", sum(len(store.teacher(i).passes) for i in store.teacher_ids) * len(store.slots), "slots"
    )
    try:
        return list(check_objects(store, lambda: watch.advance(1)))
    finally:
        watch.end()


def _show(report: dict[str, Any]) -> None:
    say(report["id"])
    rows = [
        (c["output"], f"{c['committed']}/{c['slots']}", str(c["rows"]), str(c["usable"]), str(c["class_sets"]))
        for c in report["outputs"]
    ]
    print_rows(("output", "slots", "rows", "usable", "class sets"), rows)
    for problem in report["problems"]:
        say(f"  {problem}")
    if report["live"]:
        say("live:")
        rows = [
            (c["output"], str(c["rows"]), f"{c['cosine_mean']:.7f}", f"{c['cosine_min']:.7f}", f"{c['max_error']:.2e}")
            for c in report["live"]
        ]
        print_rows(("output", "rows", "mean cosine", "least cosine", "max error"), rows)


def _refuse(store: "EmbeddingStore", found: list[dict[str, Any]], problems: list[str]) -> None:
    """End with an error where something is wrong."""
    broken = len(problems) + sum(len(report["problems"]) for report in found)
    if broken:
        raise IntegrityError(f"{store.storage.url} has {broken} problems; restore what is named, or compute it again")
    for report in found:
        for check in report["live"]:
            if not check["passed"]:
                raise IntegrityError(
                    f"{check['output']} of {report['id']} is not what the teacher says: least cosine "
                    f"{check['cosine_min']:.6f} in {check['rows']} rows, expected 0.9999\n"
                    "compare the versions in embedkd store info --json with those here, or compute the store again"
                )
