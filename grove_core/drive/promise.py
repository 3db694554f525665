"""What a store has called durable, written beside it, so that a disk that forgets is caught.

SQLite reads its write-ahead log up to the first frame whose checksum does not hold and takes that for
the end, as it must: so a crash ends. A disk that damaged acknowledged records looks the same to it. This
file tells the two apart: 64 bytes that say up to which turn the store gave its word, and whether the log
was being copied into the main file, since then the two are good only together.

Two slots, written in turns, each with a checksum: a torn write leaves the other. The word is written
after the records are durable and before anybody hears of it, and is handed to the system, not to the
disk: it survives `kill -9`; after a power cut it may be a moment old, and then says too little, never
too much. It is synced whenever the log is copied.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

SLOT: Final = 4096
"""Bytes from one slot to the other: they share no sector and no page."""

_LAYOUT: Final = struct.Struct(">8sQQQBQL")
_MAGIC: Final = b"GRVEword"

UNTOUCHED: Final = 0
"""Nothing of the log as it is was copied: each of its prefixes, on the main file, is a past state."""
COPYING: Final = 1
"""The main file may have any part of the log's first `frames` frames."""
COPIED: Final = 2
"""The main file is a past state by itself, but not under a prefix shorter than `frames`."""


class Promise(msgspec.Struct, frozen=True):
    """losses: how often durable records were lost. turn: the last that was called durable. copying, and
    of which log (salt: the file's own name for it), how many frames long."""

    losses: int = 0
    turn: int = 0
    copying: int = UNTOUCHED
    frames: int = 0
    salt: int = 0

    def is_broken_by(self, salt: int, found: int) -> bool:
        """Whether main file and log make no past state. found: sound frames of the log with that salt."""
        if self.copying == COPYING:
            return salt != self.salt or found < self.frames
        return self.copying == COPIED and salt == self.salt and 0 < found < self.frames


class PromiseFile:
    """The open file. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        self.existed = os.fstat(self._file).st_size > 0
        """Whether a store was here before."""
        self._count = 0

    def read(self) -> Promise | None:
        """The latest that can be read; None if none can."""
        found: Promise | None = None
        data = _read_at(self._file, 2 * SLOT, 0)
        for start in (0, SLOT):
            slot = data[start : start + _LAYOUT.size]
            if len(slot) < _LAYOUT.size or slot[-4:] != crc32(slot[:-4]).to_bytes(4, "big"):
                continue
            magic, count, losses, turn, copying, rest, _ = _LAYOUT.unpack(slot)
            if magic == _MAGIC and (found is None or count > self._count):
                self._count = count
                found = Promise(losses, turn, copying, rest >> 32, rest & 0xFFFFFFFF)
        return found

    def write(self, promise: Promise, *, sync: bool = False) -> None:
        """Give our word."""
        self._count += 1
        rest = promise.frames << 32 | promise.salt
        slot = _LAYOUT.pack(_MAGIC, self._count, promise.losses, promise.turn, promise.copying, rest, 0)[
            :-4
        ]
        _write_at(self._file, slot + crc32(slot).to_bytes(4, "big"), self._count % 2 * SLOT)
        if sync:
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def log_salt(path: Path) -> int:
    """What a write-ahead log is called since it was begun anew the last time; 0 if there is none."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return 0
    try:
        return int.from_bytes(_read_at(file, 4, 16), "big")
    finally:
        os.close(file)


def log_extent(path: Path) -> tuple[int, int]:
    """(salt, frames) of a write-ahead log up to its last commit, by its headers alone; (0, 0) if none.

    The file format is SQLite's, which keeps it for good: sqlite.org/walformat.html, section 1.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return 0, 0
    try:
        head = _read_at(file, 32, 0)
        if len(head) < 32:
            return 0, 0
        page = int.from_bytes(head[8:12], "big")
        salts = head[16:24]
        last = number = 0
        while True:
            frame = _read_at(file, 24, 32 + number * (24 + page))
            if len(frame) < 24 or frame[8:16] != salts:
                return int.from_bytes(salts[:4], "big"), last
            number += 1
            if frame[4:8] != b"\0\0\0\0":
                last = number
    finally:
        os.close(file)


def _read_at(file: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, size, offset)
    os.lseek(file, offset, os.SEEK_SET)
    return os.read(file, size)


def _write_at(file: int, data: bytes, offset: int) -> None:
    if hasattr(os, "pwrite"):
        os.pwrite(file, data, offset)
    else:
        os.lseek(file, offset, os.SEEK_SET)
        os.write(file, data)
