"""Real servers on loopback ports, each ended with the block that started it."""

import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from embedkd.storage.retries import Limits

# What tests plant everywhere, and look for in everything that can be seen.
ACCESS_KEY = "AKIAPLANTEDACCESSKEY"
SECRET_KEY = "plantedSecretKeyABCDEFGHIJKLMNOPQRSTUVWX"
SESSION_TOKEN = "plantedSessionToken0123456789"
PLANTED = (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
# Comes back at once, and waits long for an answer: a busy machine must not look like a server that stalls.
QUICK = Limits(attempts=6, first_delay_s=0.002, longest_delay_s=0.01, connect_s=10, read_s=10, request_s=20, total_s=30)
# For servers that stall: who waits for them loses so much each time.
HASTY = replace(QUICK, read_s=0.25)
# Ends with its parent, however that ends: then nobody holds the other end of its standard input.
_MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def moto() -> Iterator[int]:
    """An S3 server; gives its port."""
    with subprocess.Popen(
        [sys.executable, "-c", _MOTO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)


@contextmanager
def nanio(folder: Path) -> Iterator[int]:
    """An S3 server that ignores all conditions; gives its port. A bucket is a folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "nanio", "serve", "--data-dir", str(folder), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--no-access-log", "--log-level", "error"]
    environment = {**os.environ, "NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}")


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64  # with 5, one of many threads waits a second for its turn


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Ranged(_Quiet):
    """The same with ranges of one part, as every real server has them."""

    def do_GET(self) -> None:
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.end_headers()
        self.wfile.write(data[start : end + 1])


@contextmanager
def web(folder: Path, *, ranges: bool) -> Iterator[int]:
    """A plain web server of a folder; gives its port."""
    handler = partial(_Ranged if ranges else _Quiet, directory=str(folder))
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def create_bucket(port: int, name: str) -> None:
    """A bucket on a moto server, which believes every signature."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    scope = "AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/s3/aws4_request"
    connection.request("PUT", f"/{name}", headers={"Authorization": scope})
    assert connection.getresponse().status == 200
    connection.close()
