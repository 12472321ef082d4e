"""What a page computes with must be of the right kind: run folders come from other versions, and from strangers."""

from typing import TYPE_CHECKING, Any

from embedkd.errors import TrainingError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Kind = Callable[[object], bool]
    Members = Mapping[str, Kind]

_MAX_NUMBER = 10**18  # no number of steps, bytes or seconds is larger
_SHOWN = 60


def check_members(document: dict[str, Any], members: "Members", path: "Path") -> dict[str, Any]:
    """Look at members whose names start with ``*`` if they are there and not null, and at all others in any case.

    Returns:
        The document.

    Raises:
        TrainingError: A member is not what a run writes.
    """
    for marked, is_kind in members.items():
        name, value = marked.removeprefix("*"), document.get(marked.removeprefix("*"))
        if not (value is None and marked.startswith("*")) and not is_kind(value):
            came = printable(repr(value) if not isinstance(value, dict | list) else type(value).__name__, _SHOWN)
            raise TrainingError(f"{path}: expected {name} as a run of this version writes it, got {came}")
    return document


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= _MAX_NUMBER  # which neither NaN nor infinity is


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(_is_number(one) for one in value.values())


def _are_sections(value: object) -> bool:
    return isinstance(value, dict)


def _is_train(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    targets, teacher = value.get("targets"), value.get("teacher")
    return (targets is None or _is_text(targets) or _are_texts(targets)) and (teacher is None or _is_text(teacher))


def _is_memory(value: object) -> bool:
    return isinstance(value, dict) and all(
        value.get(name) is None or _is_count(value[name]) for name in ("peak_bytes", "net_bytes")
    )


def _are_estimates(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, dict) and _is_estimate(one) for one in value.values())


def _is_estimate(value: dict[str, Any]) -> bool:
    ends = (value.get("low"), value.get("high"))
    return _is_number(value.get("value")) and all(end is None or _is_number(end) for end in ends)


_LINE: "Members" = {"step": _is_count, "epoch": _is_count, "elapsed_s": _is_number}
LINES: "Mapping[str, Members]" = {
    "train": {**_LINE, "*loss": _is_number, "*lr": _is_number, "*terms": _are_numbers},
    "validation": {**_LINE, "top1": _is_number},
}
EVALUATION: "Members" = {
    **dict.fromkeys(("weights_blake2b", "data", "split", "device"), _is_text),
    "rows": _is_count,
    "*bank_rows": _is_count,
    "left_out": _are_numbers,
    "metrics": _are_estimates,
}
STUDENT: "Members" = {"*parameters": _is_count, "*weights_blake2b": _is_text, "*class_names": _are_texts}
CONFIG: "Members" = {
    "*train": _is_train,
    "*losses": _are_numbers,
    **dict.fromkeys(("*student", "*optimiser", "*augment", "*loss_options", "*data"), _are_sections),
}
RESULT: "Members" = {
    "*losses": _are_numbers,
    "*parameters": _is_count,
    "*val_top1": _is_number,
    "*best_epoch": _is_count,
    "*test_top1": _is_number,
    "*test_rows": _is_count,
    "*train_rows": _is_count,
    "*steps": _is_count,
    "*elapsed_s": _is_number,
    "*memory": _is_memory,
    "*view_mismatch": _are_texts,
    "*left_out": _are_numbers,
    "*teacher": _is_text,
    "*device": _is_text,
}
