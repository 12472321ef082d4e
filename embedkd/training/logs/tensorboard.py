"""TensorBoard's event files, written without TensorBoard.

Scalars need three small protobuf messages (Event, Summary, SessionLog of tensorflow/core/util/event.proto) in TFRecord
frames. Importing a writer of them takes half a second and 20 MB of packages; this one takes nothing, so that every run
can have its curves. Lines go to the operating system at once, so a killed process loses none.

A resumed run writes a new file from what metrics.jsonl kept, and removes the old ones: no reader sees a step twice.
"""

import os
import struct
import time
from typing import TYPE_CHECKING, Final

from embedkd.records import crc32c
from embedkd.storage import write_all
from embedkd.training.logs.logger import scalars

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedkd.training.logs.logger import Outcome, Record, Start

_PREFIX: Final = "events.out.tfevents."
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # protobuf's wire types
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7  # fields of Event
_START: Final = 1  # SessionLog.SessionStatus


class TensorBoard:
    """See `Logger`.

    Args:
        start: Its records are written first.

    Raises:
        OSError: The run folder cannot be written.
    """

    identity = None

    def __init__(self, start: "Start") -> None:
        self._began_s = start.began_s
        earlier = sorted(start.run.path.glob(f"{_PREFIX}*"))
        number = 1 + max((_number(path) for path in earlier), default=-1)
        path = start.run.path / f"{_PREFIX}{number:010d}.embedkd"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # A viewer that is running forgets what it knew from this step on.
        session = _field(_SESSION_LOG, _BYTES, _field(1, _VARINT, _START))
        self._write(_event(time.time(), 0, _field(_FILE_VERSION, _BYTES, b"brain.Event:2")))
        self._write(_event(time.time(), 0, session))
        self.extend(start.records)
        for old in earlier:
            old.unlink(missing_ok=True)

    def extend(self, records: "Sequence[Record]") -> None:
        """See `Logger.extend`."""
        self._write(*(self._encoded(record) for record in records))

    def close(self, outcome: "Outcome") -> None:
        """See `Logger.close`."""
        os.close(self._file)

    def _encoded(self, record: "Record") -> bytes:
        values = b"".join(
            _field(1, _BYTES, _field(1, _BYTES, name.encode()) + _field(2, _FLOAT, value))
            for name, value in scalars(record).items()
        )
        return _event(self._began_s + record["elapsed_s"], record["step"], _field(_SUMMARY, _BYTES, values))

    def _write(self, *events: bytes) -> None:
        write_all(self._file, b"".join(map(_framed, events)))


def _number(path: "Path") -> int:
    number = path.name.removeprefix(_PREFIX).partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _event(wall_time_s: float, step: int, what: bytes) -> bytes:
    return _field(_WALL_TIME, _DOUBLE, wall_time_s) + _field(_STEP, _VARINT, step) + what


def _field(number: int, wire: int, value: "bytes | float") -> bytes:
    """One field of a protobuf message."""
    tag = _varint(number << 3 | wire)
    if isinstance(value, bytes):
        return tag + _varint(len(value)) + value
    if wire == _VARINT:
        return tag + _varint(int(value))
    return tag + struct.pack("<d" if wire == _DOUBLE else "<f", value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _framed(event: bytes) -> bytes:
    """A TFRecord: length, its checksum, the bytes, their checksum."""
    length = struct.pack("<Q", len(event))
    return length + _masked_crc(length) + event + _masked_crc(event)


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
