"""Attacks on memory and time, each run in a process of its own that may take 1.5 GB more than Python and numpy.

Run as a program, it makes every attack and prints as JSON what came of it.
"""

import http.server
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs  # noqa: F401 - before memory is bounded

from embedkd.errors import EmbedKDError, printable
from embedkd.records import OutputSpec, Shard, blake2b_hex
from embedkd.storage import open_storage
from embedkd.store import average, check_objects, copy_store, labels_of, open_store
from embedkd.store.catalogue import MAX_CATALOGUE
from embedkd.store.documents import MAX_MANIFEST_BYTES, MAX_WIDE_BYTES
from embedkd.store.heads import read_head
from embedkd.store.manifest import MAX_GENERATION
from tests.store.samples import make
from tests.strangers.forge import Files, Memory, content_of, forge, resealed, under, with_object, write_folder

MORE_BYTES = 1_500_000_000
HANG_S = 120  # a guard against what never ends; nothing is decided by it

MANIFEST = "manifest/1.json"


def sealed_bytes(before: bytes, after: bytes) -> bytes:
    """A document that cannot be built of Python objects in little memory, in canonical bytes and with its digest.

    Args:
        before: The members in front of the digest, a comma at the end; may be empty.
        after: ``"format":1`` and the members behind it.
    """
    digest = blake2b_hex(b"{" + before + after + b"}")
    return b"{" + before + b'"digest":"' + digest.encode() + b'",' + after + b"}"


def many_lists(files: Files) -> None:
    open_store(Memory({**files, MANIFEST: b'{"slots":[' + b"[]," * (MAX_MANIFEST_BYTES // 3 - 10) + b"0]}"}))


def most_values(files: Files) -> None:
    """As many objects and texts as a document may have, sealed, so that all of it is looked at."""
    slots = b'{"":0},' * ((1 << 20) - 10) + b'"ab",' * (7 << 20) + b"0"
    open_store(Memory({**files, MANIFEST: sealed_bytes(b"", b'"format":1,"slots":[' + slots + b"]")}))


def longest_text(files: Files) -> None:
    text = b"x" * (MAX_MANIFEST_BYTES - 200)
    open_store(Memory({**files, MANIFEST: sealed_bytes(b"", b'"format":1,"root":"' + text + b'"')}))


def widest_text(files: Files) -> None:
    """One character beyond the first plane makes Python keep four bytes for each of them."""
    text = b"x" * (MAX_WIDE_BYTES - 200) + "🙂".encode()
    open_store(Memory({**files, MANIFEST: sealed_bytes(b"", b'"format":1,"root":"' + text + b'"')}))


def wide_and_too_long(files: Files) -> None:
    open_store(Memory({**files, MANIFEST: b'{"a":"' + b"x" * MAX_WIDE_BYTES + "🙂".encode() + b'"}'}))


def other_encoding(files: Files) -> None:
    open_store(Memory({**files, MANIFEST: ('{"a":"' + "x" * (MAX_MANIFEST_BYTES // 4) + '"}').encode("utf-32")}))


def sparse_file(files: Files) -> None:
    with on_disk(files) as folder:
        with (folder / MANIFEST).open("wb") as file:
            file.truncate(1 << 40)
        open_store(folder)


def far_catalogue(files: Files) -> None:
    """Catalogues at just those numbers that the search for the newest asks for."""
    content = content_of(files["sealed/1.json"])
    asked: Files = {}
    there, step = 0, 1
    while there + step <= MAX_CATALOGUE:
        there, step = there + step, 2 * step
        asked[f"sealed/{there - 1}.json"] = b""
    while step > 1:
        step //= 2
        if there + step <= MAX_CATALOGUE:
            there += step
            asked[f"sealed/{there - 1}.json"] = b""
    number = there - 1
    key = f"sealed/{number}.json"
    closed = resealed({key: files["sealed/1.json"]}, {key: {**content, "number": number}})
    storage = Memory({**files, **asked, **closed}, most=1_000_000)
    assert open_store(storage).catalogue is not None
    copy_store(storage, Memory({}, most=1_000_000))


def far_generation(files: Files) -> None:
    """A manifest of the last number there can be, and none before it."""
    last = {**content_of(files[MANIFEST]), "generation": MAX_GENERATION}
    forged = {key: data for key, data in files.items() if not key.startswith("sealed/")}
    data = resealed({MANIFEST: files[MANIFEST]}, {MANIFEST: last})[MANIFEST]
    storage = Memory({**forged, f"manifest/{MAX_GENERATION}.json": data}, most=1_000_000)
    assert check_objects(open_store(storage))
    copy_store(storage, Memory({}, most=1_000_000))


class Crowded(Memory):
    """A place that lists a million names, all of which could be teachers'."""

    def list_names(self, prefix: str) -> list[str]:
        if prefix == "teachers":
            return [f"teacher-{number:08x}" for number in range(1_000_000)]
        if prefix.startswith("teachers/teacher-"):
            return []
        return super().list_names(prefix)


def million_teachers(files: Files) -> None:
    open_store(Crowded(dict(files), most=2_000_000)).teacher()


def million_names(files: Files) -> None:
    """Class names that are near to what was asked for, which takes long to compare."""
    names = ["x" * 100 + str(number) for number in range(100_000)]
    content = {**content_of(files[MANIFEST]), "classes": names}
    store = open_store(Memory(resealed(files, {MANIFEST: content})))
    labels_of(store, ["x" * 4000])


def wide_average(files: Files) -> None:
    """2^20 classes of 65,536 numbers, from five rows."""
    spec = OutputSpec("cls", 65_536)
    with on_disk({}) as folder:
        from tests.strangers.conftest import SPEC

        teacher = replace(SPEC, outputs=(spec,))
        shards = (Shard("a.tar", "train", 9_216, 3, "a" * 64),)
        store = make(folder, {teacher: (("cls",),)}, shards, capacity=4, classes=tuple(map(str, range(1 << 20))))
        average(store.teacher(), "cls", samples_per_class=1, seed=0)


def many_statuses(files: Files) -> None:
    """A column of every slot for each of 90,000 statuses."""
    key = under(files, r".*/commits/0\.json")
    reasons = {"r" + "".join(chr(97 + n // 26**i % 26) for i in range(4)): 0 for n in range(90_000)}
    unsealed = {name: data for name, data in files.items() if not name.startswith("sealed/")}
    forged = forge(unsealed, key, lambda commit: commit["bad"].update(cls=reasons))
    open_store(Memory(forged)).teacher().counts("cls")


def huge_head(files: Files) -> None:
    """65 maps of a gibibyte each, which compress well."""
    key = under(files, r".*/heads/h/zarr\.json")
    wide = forge(files, MANIFEST, lambda manifest: manifest.update(classes=list(map(str, range(65_536)))))
    teacher = under(wide, r"teachers/[^/]+/zarr\.json")
    wide = forge(wide, teacher, lambda group: group["spec"]["outputs"][1].update(dim=4096, encoding="float32"))
    key = under(wide, r".*/heads/h/zarr\.json")
    wide = forge(wide, key, lambda head: head.update(classes=65_536, folds=64, output="logits"))
    wide = {name: data for name, data in wide.items() if not name.startswith("sealed/")}
    view = open_store(Memory(wide)).teacher()
    view._checked = True  # as if an attacker had made all metadata fit
    read_head(view, "h")


def bomb(files: Files) -> None:
    """A frame that says it holds a gibibyte, where a few bytes belong, with all checksums right."""
    key = under(files, r"rows/key/c/0")
    body = bytearray(files[key][:-4])
    body[4:8] = (1 << 30).to_bytes(4, "little")
    open_store(Memory(with_object(files, key, bytes(body)))).teacher().read(0, "cls")


class Liar(http.server.BaseHTTPRequestHandler):
    """Answers everything with a body without an end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"[" * (1 << 20))
        except OSError:
            return

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Be silent."""


def lying_server(files: Files) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    open_store(open_storage(f"http://127.0.0.1:{server.server_address[1]}/store.zarr"))


CASES: dict[str, Callable[[Files], None]] = {
    case.__name__: case
    for case in (
        *(many_lists, most_values, longest_text, widest_text, wide_and_too_long, other_encoding, sparse_file),
        *(far_catalogue, far_generation, million_teachers, million_names, wide_average, many_statuses, huge_head),
        *(bomb, lying_server),
    )
}


@contextmanager
def on_disk(files: Files) -> Iterator[Path]:
    """A store on disk, for a while."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield write_folder(files, folder / "store.zarr")
    finally:
        shutil.rmtree(folder)


def attempt(case: Callable[[Files], None], files: Files) -> dict[str, Any]:
    """What came of an attack in this process."""
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        case(files)
        outcome = {"outcome": "taken"}
    except EmbedKDError as error:
        outcome = {"outcome": "refused", "message": str(error)}
    except BaseException as error:
        outcome = {"outcome": f"{type(error).__name__}: {printable(str(error), 200)}"}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {**outcome, "seconds": round(time.monotonic() - started, 2), "grown_mb": grown // 1024}


def bounded(case: Callable[[Files], None], files: Files) -> dict[str, Any]:
    """The same in a forked process with little memory, which is killed if it does not end."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (HANG_S, HANG_S))
        os.write(write, json.dumps(attempt(case, files)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else {"outcome": "killed"}


def main() -> None:
    """Make all attacks on the store whose folder is named, or those that are named behind it."""
    from tests.strangers.forge import read_folder

    files = read_folder(Path(sys.argv[1]))
    json.dump({name: bounded(CASES[name], files) for name in sys.argv[2:] or CASES}, sys.stdout)


if __name__ == "__main__":
    main()
