"""Changes that a stranger, or a bad disk, may make to a store, as hypothesis strategies."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

from embedkd.records import canonical_json
from tests.strangers.forge import Document, Files, content_of, resealed, sealed_keys, with_object

_NUMBERS = [0, 1, -1, 2, 3, 255, 256, *(2**n + d for n in (31, 32, 53, 62, 63) for d in (-1, 0)), 10**400, 0.5, 1e308]
_TEXTS = [
    "",
    "x",
    "..",
    "../..",
    "/etc/passwd",
    "a\\b",
    "C:x",
    "a\0b",
    "\x1b[2J",
    "\u202ea",
    "<script>",
    "s3://a/b",
    "cls",
    "0",
]
_HUGE = ["x" * 5000, "y" * 100_000, "🙂" * 50, [0] * 1000, {"a": 1}, [[]] * 5, {str(i): 0 for i in range(300)}]
_DEEP: list[Any] = [0]
for _ in range(70):  # no deeper: what walks through it here must end as well
    _DEEP = [_DEEP]
JUNK: list[Any] = [None, True, False, [], {}, "f" * 64, "A" * 64, "AAAA", _DEEP, *_NUMBERS, *_TEXTS, *_HUGE]

Path = tuple[str | int, ...]


def paths(value: Any, prefix: Path = ()) -> list[Path]:
    """Ways to every value inside of a document, itself left out."""
    pairs: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    if isinstance(value, list):
        pairs = list(enumerate(value))
    return [path for name, inner in pairs for path in ((*prefix, name), *paths(inner, (*prefix, name)))]


def at(document: Any, path: Path) -> Any:
    """The value at the end of a way."""
    for name in path:
        document = document[name]
    return document


@st.composite
def forgeries(draw: st.DrawFn, files: Files) -> Files:
    """A store with one to three changed values in one document, and digests that fit again."""
    key = draw(st.sampled_from(sorted(sealed_keys(files))))
    content = json.loads(json.dumps(content_of(files[key])))
    for _ in range(draw(st.integers(1, 3))):
        draw(changes(content, files))
    return resealed(files, {key: content})


@st.composite
def changes(draw: st.DrawFn, content: Document, files: Files) -> None:
    """Change one value of a document in place; values of others may take its place, where there are ``files``."""
    places = paths(content)
    if not places:
        return
    path = draw(st.sampled_from(places))
    holder, name, value = at(content, path[:-1]), path[-1], at(content, path)
    kinds = ["junk", "junk", "near", "drop", "double", "rename", *(["splice"] if files else [])]
    kind = draw(st.sampled_from(kinds))
    if kind == "drop":
        del holder[name]
    elif kind == "double" and isinstance(holder, list):
        holder.insert(int(name), value)
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from([*_TEXTS, "extra", "\u2028", "x" * 3000]))] = holder.pop(name)
    elif kind == "splice":
        other = content_of(files[draw(st.sampled_from(sorted(sealed_keys(files))))])
        holder[name] = json.loads(json.dumps(at(other, draw(st.sampled_from(paths(other))))))
    elif kind == "near":
        holder[name] = draw(near(value))
    else:
        holder[name] = copy.deepcopy(draw(st.sampled_from(JUNK)))


def near(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same kind, not far off: these get furthest."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int):
        return st.sampled_from([value + 1, value - 1, value * 2, -value, float(value), value + 2**32, value + 2**40])
    if isinstance(value, float):
        return st.sampled_from([value * 2, -value, 0.0, 1e-300, 1e300])
    if isinstance(value, str) and value:
        return st.integers(0, len(value) - 1).flatmap(
            lambda i: st.sampled_from("0aA/.@é\x07=").map(lambda c: value[:i] + c + value[i + 1 :])
        )
    if isinstance(value, list):
        return st.permutations(value).map(list) if value else st.just([value])
    return st.sampled_from(JUNK).map(copy.deepcopy)


@st.composite
def damages(draw: st.DrawFn, files: Files) -> Files:
    """A store with other bytes in one object, and digests as they were."""
    key = draw(st.sampled_from(sorted(files)))
    damaged = draw(other_bytes(files[key], files))
    return {**files, key: damaged}


@st.composite
def edits(draw: st.DrawFn, files: Files) -> Files:
    """A store in which somebody edited one document by hand, and left its digest as it was."""
    key = draw(st.sampled_from(sorted(key for key in files if key.endswith(".json"))))
    document = json.loads(files[key])
    draw(changes(document, files))
    return {**files, key: canonical_json(document)}


@st.composite
def lying_chunks(draw: st.DrawFn, files: Files) -> Files:
    """A store with another chunk that everything vouches for: its checksums fit, its frame or its rows need not."""
    key = draw(st.sampled_from(sorted(key for key in files if "/c/" in key)))
    body = draw(other_bytes(files[key][:-4], files))
    return with_object(files, key, body)


@st.composite
def other_bytes(draw: st.DrawFn, data: bytes, files: Files) -> bytes:
    """Bytes that differ: flipped, cut, longer, of another object, or none."""
    kind = draw(st.sampled_from(["flip", "flip", "flip", "number", "cut", "insert", "other", "none", "zeros"]))
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    if kind == "flip" and data:
        return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
    if kind == "number":  # frames and columns hold lengths
        number = draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**16, len(data)])).to_bytes(4, "little")
        start = place // 4 * 4
        return data[:start] + number + data[start + 4 :]
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=40)) + data[place:]
    if kind == "other":
        return files[draw(st.sampled_from(sorted(files)))]
    return b"" if kind == "none" else bytes(len(data))
