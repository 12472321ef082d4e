"""A loopback server between a client and a real server, which breaks what it is told to break; and one that lies."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

STALL_S = 30.0  # longer than any client here waits


class Breakage(StrEnum):
    NONE = "forward, and bring the answer back"
    DROP_BEFORE = "close the connection; the server hears nothing"
    DROP_AFTER = "forward, lose the answer, close the connection"
    CUT_BODY = "forward, and bring half the answer's body back"
    HOLD = "forward once `released` is set, as if it had been on its way for so long"
    STALL = "forward, and never answer"
    STALL_BODY = "forward, bring half the body back, and then nothing more"
    ANSWER_503 = "answer 503; the server hears nothing"
    ANSWER_503_AFTER = "forward, lose the answer, answer 503"
    ANSWER_429 = "answer 429; the server hears nothing"
    ANSWER_409 = "answer 409, as S3 does where two conditional puts meet"
    ANSWER_500 = "answer 500; the server hears nothing"


_FORWARDED = {
    Breakage.NONE,
    Breakage.HOLD,
    Breakage.DROP_AFTER,
    Breakage.CUT_BODY,
    Breakage.STALL,
    Breakage.STALL_BODY,
    Breakage.ANSWER_503_AFTER,
}
_STATUS = {
    Breakage.ANSWER_503: b"503 Slow Down",
    Breakage.ANSWER_503_AFTER: b"503 Slow Down",
    Breakage.ANSWER_429: b"429 Too Many Requests",
    Breakage.ANSWER_409: b"409 Conflict",
    Breakage.ANSWER_500: b"500 Internal Server Error",
}


def forward(_method: str, _path: str) -> Breakage:
    """Break nothing."""
    return Breakage.NONE


@dataclass
class Proxy:
    """Forwards to a port of this machine, one request a connection.

    Attributes:
        upstream: The port.
        rewrite: What becomes of a request on its way.
        says: Put into the body of each error that it answers.
        decide: What is done with a request, by method and path, where nothing is planned.
        requests: Methods and paths that came, with what was done to them.
        released: Lets go of what is held.
        port: Its own.
    """

    upstream: int
    rewrite: Callable[[bytes], bytes] = bytes
    says: bytes = b"<Error><Code>SlowDown</Code></Error>"
    decide: Callable[[str, str], Breakage] = forward
    requests: list[tuple[str, str, Breakage]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    _plan: deque[tuple[str, Breakage]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def breaks(self, *breakages: Breakage, method: str = "") -> None:
        """Break the next requests, or the next ones of a method, one each."""
        with self._lock:
            self._plan.extend((method, breakage) for breakage in breakages)

    def calms(self) -> None:
        """Forget what is planned, and decide nothing any more."""
        with self._lock:
            self._plan.clear()
            self.decide = forward

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.requests]

    def _choose(self, method: str, path: str) -> Breakage:
        decided = self.decide(method, path)
        with self._lock:
            if self._plan and self._plan[0][0] in {"", method}:
                _, decided = self._plan.popleft()
            self.requests.append((method, path, decided))
            return decided

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        with listening(self._serve) as self.port:
            try:
                yield self
            finally:
                self._ended.set()

    def _serve(self, client: socket.socket) -> None:
        request = _read_message(client)
        if not request:
            return
        method, path, _ = request.split(b"\r\n", 1)[0].decode().split(" ", 2)
        chosen = self._choose(method, path)
        if chosen is Breakage.HOLD:
            self.released.wait(STALL_S)
        answer = self._forward(self.rewrite(request), method) if chosen in _FORWARDED else b""
        if chosen in _STATUS:
            head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d" % (_STATUS[chosen], len(self.says))
            answer = head + b"\r\n\r\n" + self.says
        if chosen in {Breakage.CUT_BODY, Breakage.STALL_BODY}:
            head, separator, body = answer.partition(b"\r\n\r\n")
            answer = head + separator + body[: len(body) // 2]
        if chosen not in {Breakage.DROP_BEFORE, Breakage.DROP_AFTER, Breakage.STALL}:
            client.sendall(answer)
        if chosen in {Breakage.STALL, Breakage.STALL_BODY}:
            self._ended.wait(STALL_S)

    def _forward(self, request: bytes, method: str) -> bytes:
        head, separator, body = request.partition(b"\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.upstream), timeout=10) as server:
            server.sendall(head + b"\r\nConnection: close" + separator + body)
            return _read_message(server, has_body=method != "HEAD")


def _read_message(connection: socket.socket, *, has_body: bool = True) -> bytes:
    """One HTTP message whose body has a stated length, or none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    if b"100-continue" in fields.get(b"expect", b""):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(fields.get(b"content-length", b"0")) if has_body else 0
    parts, got = [data], len(body)
    while got < length:
        more = connection.recv(1 << 20)
        if not more:
            raise ConnectionResetError("it was killed in the middle of what it sent")
        parts.append(more)
        got += len(more)
    return b"".join(parts)


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Calls ``serve`` with each connection, in a thread of its own; gives the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def accept() -> None:
            with suppress(OSError):  # that is how it ends
                while True:
                    connection, _ = server.accept()
                    connection.settimeout(STALL_S)
                    threading.Thread(target=handle, args=(connection,), daemon=True).start()

        def handle(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                serve(connection)

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()


@contextmanager
def canned(*answers: bytes, endless: bytes = b"", drip: bytes = b"") -> Iterator[tuple[int, list[int]]]:
    """A server that gives each request the next answer, and the last one again and again.

    Then it gives ``endless`` for ever, or ``drip`` twenty times a second. Gives its port, and how many endless bytes
    each request took.
    """
    left, taken = deque(answers), list[int]()

    def serve(client: socket.socket) -> None:
        _read_message(client)
        taken.append(0)
        line, separator, rest = (left.popleft() if len(left) > 1 else left[0]).partition(b"\r\n")
        client.sendall(line + separator + (b"Connection: close\r\n" if line.startswith(b"HTTP/") else b"") + rest)
        stop = time.monotonic() + STALL_S
        while (endless or drip) and time.monotonic() < stop:
            client.sendall(endless or drip)
            taken[-1] += len(endless or drip)
            time.sleep(0.05 if drip else 0)

    with listening(serve) as port:
        yield port, taken
