"""Storms of kills: writers that are started and killed until there were enough kills, on a disk and in a bucket."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedkd.storage import Storage, open_storage
from tests.faults.held import State, settled
from tests.faults.scenes import verify
from tests.storage.proxy import Breakage, Proxy
from tests.storage.servers import QUICK, create_bucket, moto
from tests.tiny import OUTPUTS, SPEC, TEXT_SPEC

KILLED = -signal.SIGKILL
# While a request of a killed writer is still on its way, moto answers 500 for a moment to others of that object.
PATIENT = replace(QUICK, attempts=20, longest_delay_s=0.5)


class Zygote:
    """See `tests.faults.zygote`.

    Args:
        before: A command that is given the zygote's command line as its last arguments, and becomes it.
    """

    def __init__(self, before: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*before, sys.executable, "-W", "ignore", "-m", "tests.faults.zygote"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None, die_at: int = 0, errors: Path | None = None
    ) -> int:
        """Start a command; its process id.

        Args:
            arguments: Of the command line.
            environment: What it has besides the zygote's own.
            die_at: See `tests.faults.zygote`.
            errors: Where its standard error goes.
        """
        request = {"arguments": arguments, "environment": dict(environment or {}), "die_at": die_at}
        return self._ask({"start": request | {"errors": str(errors or "")}})

    def wait(self, pid: int) -> int:
        """The exit code; `KILLED` for a killed one."""
        return self._ask({"wait": pid})

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Run a command to its end."""
        assert self.wait(self.start(*arguments, environment=environment)) == 0, arguments

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


def precompute_command(data: str | Path, out: str | Path, teachers: int = 1) -> list[str]:
    """The arguments of a run of one teacher, or of two in one pass over the data."""
    chosen = (SPEC, TEXT_SPEC)[:teachers]
    outputs = ",".join((*OUTPUTS, "image", "text")[: 2 * teachers])
    command = ["precompute", *(word for spec in chosen for word in ("--teacher", spec.name))]
    command += ["--data", str(data), "--out", str(out), "--outputs", outputs, "--batch-size", "3", "--device", "cpu"]
    return [*command, "--set", "precompute.threads=1", "--set", "precompute.decode_workers=0"]


def state_of(storage: Storage, prefix: str = "") -> State:
    """Every object."""
    found: State = {}
    for name in storage.list_names(prefix):
        key = f"{prefix}/{name}".lstrip("/")
        found |= {key: storage.get(key)} if storage.exists(key) else state_of(storage, key)
    return found


def check_unfinished(storage: Storage, whole: Mapping[str, bytes]) -> None:
    """Whatever has its name is whole: nothing is there but what an undisturbed run has too."""
    found = settled(state_of(storage))
    assert not [key for key in found if found[key] != whole.get(key)]


def check_finished(storage: Storage, whole: Mapping[str, bytes]) -> None:
    """The same as an undisturbed run has, and `verify` says so."""
    assert settled(state_of(storage)) == whole
    verify(storage)


def told(killed: int, writers: int) -> str:
    return f"{killed} kills of {writers} writer{'s' * (writers > 1)}"


class LocalStorm:
    """Writers on a local disk, killed at random moments.

    Args:
        zygote: Starts them.
        data: Folder of the shards.
        folder: Where the stores go.
        teachers: How many.
    """

    def __init__(self, zygote: Zygote, data: Path, folder: Path, teachers: int = 1) -> None:
        self._zygote = zygote
        self._data = data
        self._folder = folder
        self._teachers = teachers
        for name in ("warm-up", "whole"):
            started = time.perf_counter()
            self._zygote.run(*self._command(name))
            self.duration_s = time.perf_counter() - started
        self.whole = settled(state_of(self.storage("whole")))

    def storage(self, name: str) -> Storage:
        return open_storage(str(self._folder / f"{name}.zarr"))

    def _command(self, name: str) -> list[str]:
        return precompute_command(self._data, self._folder / f"{name}.zarr", self._teachers)

    def complete(self, name: str) -> None:
        """Run without being disturbed, and compare."""
        self._zygote.run(*self._command(name))
        check_finished(self.storage(name), self.whole)

    def dies_at(self, name: str, death: int) -> bool:
        """Whether a run came to its ``death``-th name, where it dies."""
        code = self._zygote.wait(self._zygote.start(*self._command(name), die_at=death))
        assert code in {0, KILLED}
        return code == KILLED

    def race(self, name: str, writers: int) -> None:
        """Let so many writers run at once, to their ends."""
        pids = [self._zygote.start(*self._command(name)) for _ in range(writers)]
        assert [self._zygote.wait(pid) for pid in pids] == [0] * writers

    def disturb(self, name: str, moments_s: Sequence[float]) -> int:
        """Start a writer for each moment and kill it then; how many were killed before they were done."""
        started = time.perf_counter()
        pids = [self._zygote.start(*self._command(name)) for _ in moments_s]
        for moment, pid in sorted(zip(moments_s, pids, strict=True)):
            time.sleep(max(0.0, started + moment - time.perf_counter()))
            os.kill(pid, signal.SIGKILL)
        codes = [self._zygote.wait(pid) for pid in pids]
        assert set(codes) <= {0, KILLED}
        return codes.count(KILLED)

    def rage(self, writers: int, kills: int, seed: int) -> str:
        """Kill until there were so many kills; every store is disturbed until a run comes through.

        Returns:
            What was done, in a line.
        """
        rng = random.Random(f"{seed} {writers} {self._teachers}")
        killed = stores = 0
        while killed < kills:
            name, hits = f"{writers}-{stores}", writers
            stores += 1
            while hits == writers and killed < kills:
                hits = self.disturb(name, [rng.uniform(0, 1.1 * self.duration_s) for _ in range(writers)])
                killed += hits
                check_unfinished(self.storage(name), self.whole)
            self.complete(name)
        return f"{told(killed, writers)} to a disk, {stores} stores, {self.duration_s * 1000:.0f} ms undisturbed"


class Bucket:
    """A bucket of a moto server behind a proxy, and where it is.

    Args:
        port: The server's.
        proxy: Before it.
        name: The bucket's.
    """

    def __init__(self, port: int, proxy: Proxy, name: str) -> None:
        self.proxy = proxy
        self.name = name
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_REGION": "us-east-1",
        }
        self.direct = self.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}

    def url(self, name: str) -> str:
        return f"s3://{self.name}/{name}"


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    """A server, a proxy and a bucket; this process reads from the server itself."""
    with moto() as port, Proxy(port).running() as proxy:
        create_bucket(port, "storms")
        yield Bucket(port, proxy, "storms")


class Reaper:
    """Kills processes at requests that a proxy sees: in the middle of an operation, however fast the machine is.

    Args:
        proxy: The proxy; its `decide` is taken.

    Attributes:
        requests: That have come.
        objects: Paths of objects that somebody began to put.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.requests = 0
        self.objects: set[str] = set()
        self._lock = threading.Lock()
        self._victims: list[tuple[Callable[[], bool], int]] = []
        proxy.decide = self._watch

    def at_request(self, count: int, pid: int) -> None:
        """Kill a process when so many requests have come from now on."""
        with self._lock:
            limit = self.requests + count
            self._victims.append((lambda: self.requests >= limit, pid))

    def at_object(self, count: int, pid: int) -> None:
        """Kill a process when somebody begins to put the so-manieth object, counted from the first of all."""
        with self._lock:
            self._victims.append((lambda: len(self.objects) >= count, pid))

    def forget(self) -> None:
        """Spare those that are left."""
        with self._lock:
            self._victims.clear()

    def _watch(self, method: str, path: str) -> Breakage:
        with self._lock:
            self.requests += 1
            if method == "PUT" and ".probe-" not in path:
                self.objects.add(path)
            due = [victim for victim in self._victims if victim[0]()]
            self._victims = [victim for victim in self._victims if victim not in due]
            for _, pid in due:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # What a dying client has sent may still arrive, or not.
            return Breakage.DROP_BEFORE if due and self.requests % 2 else Breakage.NONE


class BucketStorm:
    """Writers to a bucket, killed at requests of theirs.

    Args:
        zygote: Starts them.
        data: Where the shards lie.
        bucket: Where the stores go.
    """

    def __init__(self, zygote: Zygote, data: Path | str, bucket: Bucket) -> None:
        self._zygote = zygote
        self._data = data
        self._bucket = bucket
        self._prefix = uuid.uuid4().hex
        self._reaper = Reaper(bucket.proxy)
        self._complete("whole")
        self.requests = self._reaper.requests
        self.whole = settled(state_of(self.storage("whole")))

    def url(self, name: str) -> str:
        return self._bucket.url(f"{self._prefix}/{name}.zarr")

    def storage(self, name: str) -> Storage:
        return open_storage(self.url(name), limits=PATIENT)

    def _start(self, name: str) -> int:
        command = precompute_command(self._data, self.url(name))
        return self._zygote.start(*command, environment=self._bucket.environment)

    def complete(self, name: str) -> None:
        """Run without being disturbed, and compare."""
        self._complete(name)
        check_finished(self.storage(name), self.whole)

    def _complete(self, name: str) -> None:
        assert self._zygote.wait(self._start(name)) == 0

    def race(self, name: str, writers: int) -> None:
        """As `LocalStorm.race`."""
        pids = [self._start(name) for _ in range(writers)]
        assert [self._zygote.wait(pid) for pid in pids] == [0] * writers

    def disturb(self, name: str, moments: Sequence[int]) -> int:
        """Start a writer for each moment and kill it at that request; how many were killed before they were done."""
        pids = [self._start(name) for _ in moments]
        for moment, pid in zip(moments, pids, strict=True):
            self._reaper.at_request(moment, pid)
        codes = [self._zygote.wait(pid) for pid in pids]
        self._reaper.forget()
        assert set(codes) <= {0, KILLED}
        return codes.count(KILLED)

    def rage(self, writers: int, kills: int, seed: int) -> str:
        """As `LocalStorm.rage`."""
        rng = random.Random(f"{seed} {writers} bucket")
        killed = stores = 0
        while killed < kills:
            name, hits = f"{writers}-{stores}", writers
            stores += 1
            while hits == writers and killed < kills:
                hits = self.disturb(name, [rng.randint(1, self.requests) for _ in range(writers)])
                killed += hits
                check_unfinished(self.storage(name), self.whole)
            self.complete(name)
        return f"{told(killed, writers)} to a bucket, {stores} stores, {self.requests} requests undisturbed"

    def wear_down(self, name: str, kills: int, seed: int) -> int:
        """Kill one writer after the other on one store, each a bit later in the work; how many were killed.

        The moments are objects that are put, spread over all of the store: each kill finds it further on.
        """
        rng = random.Random(f"{seed} wear")
        before = len(self._reaper.objects)
        moments = sorted(rng.sample(range(1, len(self.whole)), kills))
        killed = 0
        for moment in moments:
            pid = self._start(name)
            self._reaper.at_object(before + moment, pid)
            killed += self._zygote.wait(pid) == KILLED
            self._reaper.forget()
            if killed % 10 == 0:
                check_unfinished(self.storage(name), self.whole)
        return killed
