"""Documents with right digests and absurd content: refused at the first reader that would believe them."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from embedkd.errors import EmbedKDError
from embedkd.records import canonical_json
from embedkd.store import open_store
from tests.strangers.forge import Document, Files, Memory, all_under, content_of, forge, resealed, under
from tests.strangers.mutations import JUNK
from tests.strangers.readers import REFUSED, answers, check_message, is_verified, is_whole

Change = Callable[[Document], object]

ROOT = r"zarr\.json"
MANIFEST = r"manifest/1\.json"
TEACHER = r"teachers/[^/]+/zarr\.json"
PASS = r".*/pass\.json"
COMMIT = r".*/commits/0\.json"
INDEX = r".*/pass-\w+/sealed/0\.json"
CATALOGUE = r"sealed/1\.json"
CLASSES = r".*/classes/n2-seed0/cls/zarr\.json"
HEAD = r".*/heads/h/zarr\.json"


def put(*path: str | int, value: Any) -> Change:
    """A change of one member, at the end of a way."""

    def change(content: Document) -> None:
        holder: Any = content
        for name in path[:-1]:
            holder = holder[name]
        holder[path[-1]] = value

    return change


def each(*changes: Change) -> Change:
    """Several changes after one another."""
    return lambda content: [change(content) for change in changes] and None


DEEP: Any = {}
for _ in range(500):
    DEEP = {"a": DEEP}

AT_THE_DOOR: list[tuple[str, Change]] = [
    (ROOT, put("capacity", value=3)),
    (ROOT, put("capacity", value=1 << 40)),
    (ROOT, put("capacity", value=4.0)),
    (ROOT, put("capacity", value=True)),
    (ROOT, put("store_uuid", value="x" * 5000)),
    (ROOT, put("store_uuid", value="another")),
    (ROOT, put("decode", value=[])),
    (ROOT, put("decode", "background", value=[0, 0, 256])),
    (ROOT, put("decode", "background", value=[0] * 10_000)),
    (ROOT, put("decode", "max_pixels", value=1 << 62)),
    (ROOT, put("decode", "max_pixels", value=0)),
    (ROOT, put("decode", "exif", value=1)),
    (ROOT, put("format", value=True)),
    (ROOT, put("format", value=10**4000)),
    (MANIFEST, put("generation", value=2**40)),
    (MANIFEST, put("generation", value=0)),
    (MANIFEST, put("slots", value=[])),
    (MANIFEST, put("slots", value=[{}] * 20_000)),
    (MANIFEST, put("slots", value=[[[]]] * 20_000)),
    (MANIFEST, put("slots", value=DEEP)),
    (MANIFEST, put("slots", 0, "url", value="../../../etc/passwd")),
    (MANIFEST, put("slots", 2, "url", value="/dev/zero")),
    (MANIFEST, put("slots", 2, "url", value="s3://bucket/x.tar")),
    (MANIFEST, put("slots", 2, "rows", value=2**62)),
    (MANIFEST, put("slots", 2, "n", value=2**62)),
    (MANIFEST, put("slots", 2, "bytes", value=1e300)),
    (MANIFEST, put("classes", value=["x"] * ((1 << 20) + 1))),
    (MANIFEST, put("classes", value=["x" * 100_000])),
    (MANIFEST, put("classes", value=["a\nb"])),
    (MANIFEST, put("root", value="/")),
    (MANIFEST, put("root", value="http://169.254.169.254/latest")),
    (MANIFEST, put("root", value="..\\..\\x")),
    (CATALOGUE, put("number", value=2**30)),
    (CATALOGUE, put("generation", value=2**40)),
    (CATALOGUE, put("teachers", value={"../../x": {}})),
    (CATALOGUE, put("teachers", value={f"a-{n:08x}": {} for n in range(70_000)})),
    (CATALOGUE, put("teachers", value=DEEP)),
]

AT_THE_TEACHER: list[tuple[str, Change]] = [
    (TEACHER, put("spec", value=DEEP)),
    (TEACHER, put("spec", "licence", value=5)),
    (TEACHER, put("spec", "licence", value={"a": "b"})),
    (TEACHER, put("spec", "licence", value="x" * 5000)),
    (TEACHER, put("spec", "licence", value="\x1b[2J")),
    (TEACHER, put("spec", "libraries", value=[DEEP])),
    (TEACHER, put("spec", "libraries", value=[["a", "b"]] * 1000)),
    (TEACHER, put("spec", "libraries", value=[["a"]])),
    (TEACHER, put("spec", "outputs", value=[])),
    (TEACHER, put("spec", "outputs", value=[{"name": "cls", "dim": 3, "encoding": "float16"}] * 2)),
    (TEACHER, put("spec", "outputs", 0, "dim", value=1 << 40)),
    (TEACHER, put("spec", "outputs", 0, "dim", value=3.0)),
    (TEACHER, put("spec", "outputs", 0, "dim", value=True)),
    (TEACHER, put("spec", "outputs", 0, "name", value="../cls")),
    (TEACHER, put("spec", "outputs", 0, "name", value="cls_status")),
    (TEACHER, put("spec", "outputs", 0, "encoding", value="object")),
    (TEACHER, put("spec", "outputs", 0, "encoding", value=["float16"])),
    (TEACHER, put("spec", "outputs", 0, "filters", value=[{"id": "pickle"}])),
    (TEACHER, put("spec", "preprocess", value=None)),
    (TEACHER, put("spec", "preprocess", "mean", value=["a", "b", "c"])),
    (TEACHER, put("spec", "preprocess", "mean", value=[0.5] * 100_000)),
    (TEACHER, put("spec", "preprocess", "std", value=[0.5, 0.5])),
    (TEACHER, put("spec", "preprocess", "crop_px", value=[1 << 40, 1])),
    (TEACHER, put("spec", "preprocess", "resize_px", value="224")),
    (TEACHER, put("spec", "preprocess", "pad_rgb", value=[0, 0, -1])),
    (TEACHER, put("spec", "layers", value=10**9)),
    (TEACHER, put("spec", "layers", value=None)),
    (TEACHER, put("spec", "logit_scale", value="1")),
    (TEACHER, put("spec", "logit_scale", value=10**300)),
    (TEACHER, put("spec", "x" * 10_000, value=1)),
    (TEACHER, put("spec", "\x1b]0;x\x07", value=1)),
    (TEACHER, put("spec", "name", value=None)),
    (PASS, put("outputs", value=["../../rows/key"])),
    (PASS, put("outputs", value=["cls"] * 2)),
    (PASS, put("outputs", value=[f"o{n}" for n in range(257)])),
    (PASS, put("views", value=2)),
    (PASS, put("batch_size", value=0)),
    (PASS, put("threads", value=DEEP)),
    (PASS, put("device", value="a\nb")),
]

AT_THE_ROWS: list[tuple[str, Change]] = [
    (COMMIT, put("attempt", value=DEEP)),
    (COMMIT, put("attempt", value={"a": "x" * 70_000})),
    (COMMIT, put("rows", value=3)),
    (COMMIT, put("ok", value={"../x": 1})),
    (COMMIT, put("bad", "cls", value={"r" * 30 + chr(97 + n % 26) * (n // 26 % 3): 0 for n in range(60)})),
    (COMMIT, put("bad", "cls", value={"\x1b[31m": 1})),
    (COMMIT, put("bad", "cls", value={f"reason_{chr(97 + n)}": 1 for n in range(17)})),
    (COMMIT, put("objects", value=[{}] * 100_000)),
    (COMMIT, put("objects", 0, "key", value="../../../../etc/passwd")),
    (COMMIT, put("objects", 0, "key", value="/etc/passwd")),
    (COMMIT, put("objects", 0, "bytes", value=2**31)),
    (COMMIT, put("objects", 0, "bytes", value=19)),
    (COMMIT, put("objects", 0, "crc32c", value=2**32)),
    (COMMIT, put("source", "bytes", value=2**62)),
    (COMMIT, put("max_label", value=2**31)),
    (COMMIT, put("max_label", value=3)),
    (COMMIT, put("slot", value=1)),
    (INDEX, lambda index: index["bad"]["cls"].update({f"reason_{chr(97 + n)}": "A" * 16 for n in range(17)})),
    (INDEX, put("slots", value="")),
    (INDEX, put("slots", value="AAAA" * 100_000)),
    (INDEX, put("slots", value="//////8AAAD/////")),
    (INDEX, put("commits", value="AAAA")),
    (INDEX, put("keys", value="é" * 172)),
    (INDEX, put("labelled", value=[0, 1, 2])),
    (INDEX, put("objects", value=[{}] * 3)),
    (INDEX, put("ok", value={})),
    (INDEX, put("ok", value={"a" * 100_000: "AAAA"})),
    (INDEX, put("max_label", value="/////v////7////+")),
]

AT_THE_SETS: list[tuple[str, Change]] = [
    (CLASSES, put("classes", value=1 << 40)),
    (CLASSES, put("classes", value=2)),
    (CLASSES, put("seed", value=2**70)),
    (CLASSES, put("prompts", value=["x"] * 2000)),
    (CLASSES, put("arrays", value={})),
    (CLASSES, put("arrays", "mean", "key", value="../../../mean/c/0/0")),
    (CLASSES, put("arrays", "mean", "bytes", value=0)),
    (HEAD, put("folds", value=10**6)),
    (HEAD, put("folds", value=64)),
    (HEAD, put("classes", value=1 << 40)),
    (HEAD, put("l2", value=-1.0)),
    (HEAD, put("l2", value="1")),
    (HEAD, put("kind", value="pickle")),
    (HEAD, put("output", value="../cls")),
    (HEAD, put("objects", 0, "key", value="/dev/zero")),
]


def _cases(table: list[tuple[str, Change]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("pattern", "change"), [pytest.param(*case, id=f"{n}") for n, case in enumerate(table)]
    )


@_cases(AT_THE_DOOR)
def test_refused_when_the_store_is_opened(sound: Files, pattern: str, change: Change) -> None:
    forged = forge(sound, under(sound, pattern), change)
    assert answers(forged, sound) == {("open",): REFUSED}


@_cases(AT_THE_TEACHER)
def test_refused_when_the_teacher_is_opened(sound: Files, pattern: str, change: Change) -> None:
    forged = forge(sound, under(sound, pattern), change)
    store = open_store(Memory(forged))
    for name in store.teacher_ids:
        with pytest.raises(EmbedKDError) as caught:
            store.teacher(name)
        check_message(caught.value)
    assert not is_whole(answers(forged, sound))


@_cases([*AT_THE_ROWS, *AT_THE_SETS])
def test_refused_before_it_is_used(sound: Files, pattern: str, change: Change) -> None:
    for key in all_under(sound, pattern):
        assert not is_whole(answers(forge(sound, key, change), sound))


METADATA: list[Change] = [
    put("shape", value=[1 << 60, 3]),
    put("shape", value=[-1, 3]),
    put("data_type", value="object"),
    put("data_type", value={"name": "numpy.datetime64", "configuration": {"unit": "generic", "scale_factor": 1}}),
    put("codecs", value=[{"name": "numcodecs.pickle", "configuration": {}}]),
    put("codecs", value=[{"name": "numcodecs.lzma", "configuration": {}}]),
    put("codecs", value=[{"name": "sharding_indexed", "configuration": {"chunk_shape": [1]}}]),
    put("chunk_grid", "configuration", "chunk_shape", value=[1 << 40, 3]),
    put("chunk_key_encoding", value={"name": "v2", "configuration": {"separator": "/../"}}),
    put("fill_value", value=7),
    put("storage_transformers", value=[{"name": "x"}]),
    put("attributes", value={"a": DEEP}),
    put("consolidated_metadata", value={"kind": "inline", "must_understand": False, "metadata": {}}),
]


@pytest.mark.parametrize("change", METADATA, ids=range(len(METADATA)))
@pytest.mark.parametrize("pattern", [r".*/cls/zarr\.json", r"rows/key/zarr\.json", r".*/mean/zarr\.json"])
def test_array_metadata_is_compared_and_not_believed(sound: Files, pattern: str, change: Change) -> None:
    key = under(sound, pattern)
    document = json.loads(sound[key])
    document.setdefault("chunk_grid", {"configuration": {}})
    change(document)
    assert not is_verified({**sound, key: canonical_json(document)})


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b'{"format":1,"a":' + b"9" * 100_000 + b"}"])
@pytest.mark.parametrize(
    "pattern", [ROOT, MANIFEST, TEACHER, PASS, INDEX, CATALOGUE, CLASSES, HEAD, r"rows/zarr\.json"]
)
def test_what_no_parser_should_follow(sound: Files, pattern: str, text: bytes) -> None:
    assert is_verified(sound)
    assert not is_verified({**sound, under(sound, pattern): text})


def test_a_few_more_statuses_are_taken(sound: Files) -> None:
    """Names of a later version; the case with 17 of them above is refused for their number alone."""
    key = under(sound, INDEX)
    assert is_verified(forge(sound, key, lambda index: index["bad"]["cls"].update(later="A" * 16)))


@pytest.mark.parametrize("number", [0, 1])
def test_every_seal_is_verified(sound: Files, number: int) -> None:
    """Also one that a later one follows: copies hold it, so it has to be whole."""
    data = sound[f"sealed/{number}.json"]
    for damaged in (data[:-1], data.replace(b'"generation":', b'"generation":1')):
        assert not is_verified({**sound, f"sealed/{number}.json": damaged})
    other = forge(sound, f"sealed/{number}.json", put("store_uuid", value="another store"))
    assert not is_verified(other)


def test_a_store_may_say_absurd_things_that_harm_nobody(sound: Files) -> None:
    """Facts that nothing is computed from, and members that this version does not know."""
    contents = {
        key: copy.deepcopy(content_of(sound[key])) for key in all_under(sound, f"{MANIFEST}|{CLASSES}|{COMMIT}")
    }
    for content in contents.values():
        content["later"] = {"a": JUNK[:9]}
        content |= {"attempt": {"time": "yesterday"}} if "attempt" in content else {}
    assert is_whole(answers(resealed(sound, contents), sound))
