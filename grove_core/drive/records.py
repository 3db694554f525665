"""The file of a node's records: one SQLite database in WAL mode, (plugin, key) → value, that is checked.

Each row has the number of the turn (transaction) that wrote it and a checksum of all it says; beside the
file lies what was promised (`promise.py`). At each opening everything is read once and the database's
own integrity check run. What is found is one of three:

    whole      every turn that was promised is here; what a crash left behind the last is gone, rightly
    older      a past state, and perhaps rows of it missing: the tail is damaged, or single rows are
    broken     no past state: the file is put aside as `records.lost.sqlite` and another one begun

In the last two cases `losses` grows by one, for good, and each plugin is told until it says that it
knows (`grove_core.machine.LOST`): a voter that forgot must not vote.

Invariants:
1. A state that is not whole is never opened without `losses` having grown durably before.
2. What is read is a state this node had, or a part of one: never a mixture of two.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from grove_core.drive.promise import (
    COPIED,
    COPYING,
    UNTOUCHED,
    Promise,
    PromiseFile,
    log_extent,
    log_salt,
)
from grove_core.errors import GroveError
from grove_core.machine import LOST

log = logging.getLogger("grove.store")

COPY_EVERY: Final = 4 << 20
"""Bytes written, about, after which the log is copied into the main file. SQLite's own 1,000 pages."""

_VERSION = 2
"""Of the tables, in SQLite's user_version. 1 had no turn and no sum. Another one needs another `_MAGIC`
of promises: by that a later Grove's file is told from a damaged one."""

_APPLICATION = 0x47525645
""" "GRVE" in SQLite's application_id: `file` and we ourselves can tell whose file it is."""

_OURS = ""  # the plugin of the row that a turn writes which only erases

Slot = tuple[str, str]
"""(plugin, key)."""

Batch = dict[Slot, bytes | None]
"""What one transaction writes; None erases."""


class StoreError(GroveError):
    """The records cannot be kept: folder in use, disk full, not our file. Fatal for the node."""


class _Broken(Exception):
    """The database is no past state of itself."""


class Records:
    """The open file. `load` and `keys` in one thread, `commit` in one other."""

    def __init__(self, folder: Path) -> None:
        """Opens, creates or mends. Raises StoreError, sqlite3.Error, OSError."""
        self.path = folder / "records.sqlite"
        self.found = ""
        """What was wrong with the file; "" if nothing."""
        self._wal = folder / "records.sqlite-wal"
        self._file = PromiseFile(folder / "promised")
        self._promise = Promise()
        self._weight = 0
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise

    @property
    def losses(self) -> int:
        """How often this node has lost records that were durable."""
        return self._promise.losses

    # Reading.

    def load(self, plugin: str, key: str) -> bytes | None:
        rows = self._rows("SELECT value FROM record WHERE plugin = ? AND key = ?", (plugin, key))
        return bytes(rows[0][0]) if rows else None

    def keys(self, plugin: str, prefix: str) -> list[str]:
        """In no order."""
        rows = self._rows(
            "SELECT key FROM record WHERE plugin = ? AND key >= ? AND substr(key, 1, ?) = ?",
            (plugin, prefix, len(prefix), prefix),
        )
        return [row[0] for row in rows]

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from None

    # Writing.

    def commit(self, batch: Batch) -> None:
        """One transaction: durable, and promised, when this returns. Raises sqlite3.Error, OSError."""
        turn = self._promise.turn + 1
        rows = [_row(slot, value, turn) for slot, value in batch.items() if value is not None]
        if not rows:
            rows = [_row((_OURS, "turn"), b"", turn)]
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        try:
            writer.executemany(
                "INSERT INTO record VALUES (?, ?, ?, ?, ?) ON CONFLICT (plugin, key) DO UPDATE"
                " SET value = excluded.value, turn = excluded.turn, sum = excluded.sum",
                rows,
            )
            writer.executemany(
                "DELETE FROM record WHERE plugin = ? AND key = ?",
                (slot for slot, value in batch.items() if value is None),
            )
            writer.execute("COMMIT")
        except BaseException:
            if writer.in_transaction:  # a full disk may have rolled back already
                writer.execute("ROLLBACK")
            raise
        kept = self._promise
        if kept.copying and log_salt(self._wal) == kept.salt:  # nobody could begin the log anew yet
            self._promise = Promise(kept.losses, turn, kept.copying, kept.frames, kept.salt)
        else:
            self._promise = Promise(kept.losses, turn)
        self._file.write(self._promise)
        self._weight += 12_288 + sum(128 + len(row[2]) for row in rows)
        if self._weight > COPY_EVERY:
            self._copy()

    def _copy_all(self) -> None:
        # Emptied only once it is said that nobody needs it: killed in between, it is not missed.
        if self._copy():
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _copy(self) -> bool:
        """Bring the log into the main file, saying so before and after: half a copy needs its log.

        Waits for no reader. Whether all of it is there now.
        """
        self._weight = 0
        losses, turn = self._promise.losses, self._promise.turn
        salt, frames = log_extent(self._wal)
        self._promise = Promise(losses, turn, COPYING, frames, salt)
        self._file.write(self._promise, sync=True)
        ((_, held, copied),) = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if copied < held:
            return False  # somebody reads: the log stays, and stays needed
        self._promise = Promise(losses, turn, COPIED, frames, salt)
        self._file.write(self._promise, sync=True)
        return True

    def close(self) -> None:
        """Let go of the file. Raises nothing: what was promised is kept either way."""
        ending: list[Callable[[], object]] = [self._copy_all, self._reader.close, self._writer.close]
        for act in ending:
            try:
                act()
            except (sqlite3.Error, OSError) as error:
                log.warning("%s: %s", self.path, error)
        self._file.close()

    # Beginning a life.

    def _begin(self) -> None:
        promise = self._file.read()
        damaged: list[Slot] = []
        try:
            self._open(promise)
            turn, damaged = self._look(promise)
            if promise is None and turn:
                self.found = "nothing says what was promised"
            elif promise is not None and turn < promise.turn:
                self.found = f"turn {turn} is the last here and {promise.turn} was promised"
            elif damaged:
                self.found = f"{len(damaged)} records do not match their checksums"
            is_broken = False
        except (sqlite3.DatabaseError, _Broken) as error:
            is_ours = self._file.existed and (promise is None or promise.turn)
            if not is_ours or "locked" in str(error):
                raise StoreError(f"{self.path}: {error}") from None
            self.found, turn, is_broken = str(error), 0, True
        losses = promise.losses if promise is not None else 0
        if not self.found:
            self._promise = Promise(losses, turn)
        else:
            if not is_broken:
                losses = max(losses, self._acknowledged())
            log.warning("%s: %s; what is missing is to be had from the group", self.path, self.found)
            self._promise = Promise(losses + 1, turn)
        if is_broken:
            # Until the next one is begun the promise says that there was something.
            self._file.write(Promise(losses + 1, max(1, promise.turn if promise else 1)), sync=True)
            self._put_aside()
            self._open(None)
        self._copy_all()
        if damaged:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany("DELETE FROM record WHERE plugin = ? AND key = ?", damaged)
            self._writer.execute("COMMIT")

    def _open(self, promise: Promise | None) -> None:
        self._writer = _connect(self.path)
        try:
            _prepare(self._writer, self.path, is_promised=promise is not None)
            self._reader = _connect(self.path)
        except BaseException:
            self._writer.close()
            raise

    def _look(self, promise: Promise | None) -> tuple[int, list[Slot]]:
        """The last turn that is here, and which rows are damaged. Raises _Broken, sqlite3.Error."""
        try:
            salt, frames = log_extent(self._wal)
            if promise is not None and (promise.copying == UNTOUCHED or promise.salt != salt != 0):
                # Of another log than was copied, or none yet. Else what is promised of it stands.
                self._file.write(Promise(promise.losses, promise.turn, COPYING, frames, salt), sync=True)
            ((_, found, _),) = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if promise is not None and promise.is_broken_by(salt, found):
                raise _Broken(f"{found} of {promise.frames} frames of a log that was being copied")
            for (said,) in self._writer.execute("PRAGMA integrity_check(1)"):
                if said != "ok":
                    raise _Broken(str(said).splitlines()[-1])
            last, damaged = 0, []
            for plugin, key, value, turn, sum in self._writer.execute("SELECT * FROM record"):
                if sum == _sum(plugin, key, value, turn):
                    last = max(last, turn)
                else:
                    damaged.append((plugin, key))
            return last, damaged
        except BaseException:
            self._reader.close()
            self._writer.close()
            raise

    def _acknowledged(self) -> int:
        """The latest loss that a plugin knows of."""
        rows = self._rows("SELECT value FROM record WHERE key = ?", (LOST,))
        return max((int.from_bytes(row[0], "big") for row in rows), default=0)

    def _put_aside(self) -> None:
        """Keep what is broken, for whoever wants to look; the one before it makes room."""
        os.replace(self.path, self.path.with_name("records.lost.sqlite"))
        for rest in ("-wal", "-shm"):
            self.path.with_name(self.path.name + rest).unlink(missing_ok=True)


def _sum(plugin: str, key: str, value: bytes, turn: int) -> int:
    return crc32(value, crc32(f"{plugin}\0{key}\0{turn}".encode()))


def _row(slot: Slot, value: bytes, turn: int) -> tuple[str, str, bytes, int, int]:
    return (*slot, value, turn, _sum(*slot, value, turn))


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: we say BEGIN and COMMIT ourselves. The thread check is off since the
    # writer is made here and used in the store's one thread, never in two at a time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # WAL with NORMAL loses commits in a power cut
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the disk's own cache
        connection.execute("PRAGMA cache_size = -512")  # KiB; small homes
        connection.execute("PRAGMA journal_size_limit = 16777216")  # the WAL shrinks after a burst
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # we copy, and say so: see Records._copy
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, is_promised: bool) -> None:
    """Make the tables, or bring them up to date. is_promised: a promise of our version lies beside the
    file, so one of another version is damaged. Raises StoreError, _Broken, sqlite3.Error."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    tables: Sequence[Any] = connection.execute("SELECT name FROM sqlite_master").fetchall()
    if not tables and version == 0:
        connection.executescript(
            "BEGIN;"
            "CREATE TABLE record (plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
            " turn INTEGER NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (plugin, key));"
            f"PRAGMA application_id = {_APPLICATION};"
            f"PRAGMA user_version = {_VERSION};"
            "COMMIT;"
        )
    elif application != _APPLICATION and ("record",) not in tables:
        raise StoreError(f"{path} is not a file of Grove's; move it away or choose another data folder")
    elif application != _APPLICATION:
        raise _Broken("the file's header is damaged")
    elif version == 1:
        connection.create_function("grove_sum", 4, _sum, deterministic=True)
        connection.executescript(
            "BEGIN;"
            "ALTER TABLE record ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;"
            "ALTER TABLE record ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;"
            "UPDATE record SET sum = grove_sum(plugin, key, value, 0);"
            f"PRAGMA user_version = {_VERSION};"
            "COMMIT;"
        )
    elif version != _VERSION and is_promised:
        raise _Broken("the file's header is damaged")
    elif version != _VERSION:
        raise StoreError(
            f"{path} has tables of version {version}; this Grove reads version {_VERSION}. "
            "Start it with the Grove that wrote it, or choose another data folder."
        )
