"""The records of a node: what `ctx.save` means on a real disk.

One SQLite file in WAL mode, (plugin, key) → value. Everything that was put during one turn of the
event loop becomes one transaction, committed with fsync in a thread of its own while the loop goes
on; what is put meanwhile waits for the next one (group commit). A batch has a number, and `durable`
says up to which number everything is on the disk.

Invariants:
1. `load` and `keys` see what was put, durable or not.
2. `durable` grows only after fsync: a batch it covers survives `kill -9` and, on a disk that keeps
   its word, a power cut.
3. After a write has failed nothing is ever called durable again.
4. One process owns the folder: the lock is the kernel's, so it ends with the process.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from grove_core.errors import GroveError, LocalProtocolError

MAX_KEY = 255
"""Longest key in characters."""

MAX_VALUE = 16 * 1024 * 1024
"""Longest value in bytes."""

_VERSION = 1
"""Of the tables, in SQLite's user_version."""

_APPLICATION = 0x47525645
""" "GRVE" in SQLite's application_id: `file` and we ourselves can tell whose file it is."""

Slot = tuple[str, str]
"""(plugin, key)."""

Batch = dict[Slot, bytes | None]
"""What one transaction writes; None erases."""


class StoreError(GroveError):
    """The records cannot be kept: folder in use, disk full, file damaged. Fatal for the node."""


class Store:
    """The open records of one data folder, mode 0700. Lives on one event loop.

    on_durable: called on the loop after each transaction with the number of its batch.
    on_failure: called on the loop, once, when a write failed.
    """

    def __init__(
        self,
        folder: Path,
        on_durable: Callable[[int], None] = lambda batch: None,
        on_failure: Callable[[StoreError], None] = lambda error: None,
    ) -> None:
        """Opens or creates. Raises StoreError."""
        self.folder = folder
        self.durable = 0
        self.failure: StoreError | None = None
        self._on_durable = on_durable
        self._on_failure = on_failure
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise StoreError(f"cannot use {folder} as data folder: {error.strerror or error}") from None
        self._lock = _lock(folder)
        self.path = folder / "records.sqlite"
        try:
            self._writer = _open(self.path)
            _prepare(self._writer, self.path)
            self._reader = _open(self.path)
        except sqlite3.Error as error:
            self._lock.close()
            raise StoreError(f"{self.path}: {error}") from None
        except StoreError:
            self._lock.close()
            raise
        _sync_folder(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grove-store")
        self._number = 1  # of the batch that is being filled
        self._filling: Batch = {}
        self._writing: Future[None] | None = None
        self._recent: dict[Slot, tuple[int, bytes | None]] = {}  # put, not yet known to be durable
        self._scheduled = False
        self._closed = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    def load(self, plugin: str, key: str) -> bytes | None:
        """The value last put, or None."""
        recent = self._recent.get((plugin, key))
        if recent is not None:
            return recent[1]
        rows = self._read("SELECT value FROM record WHERE plugin = ? AND key = ?", (plugin, key))
        return bytes(rows[0][0]) if rows else None

    def keys(self, plugin: str, prefix: str = "") -> tuple[str, ...]:
        """The keys of a plugin that start with prefix, ascending by code point."""
        rows = self._read(
            "SELECT key FROM record WHERE plugin = ? AND key >= ? AND substr(key, 1, ?) = ?",
            (plugin, prefix, len(prefix), prefix),
        )
        found: set[str] = {row[0] for row in rows}
        for (owner, key), (_, value) in self._recent.items():
            if owner == plugin and key.startswith(prefix):
                if value is None:
                    found.discard(key)
                else:
                    found.add(key)
        return tuple(sorted(found))

    def put(self, plugin: str, key: str, value: bytes | None) -> int:
        """Write (or, with None, erase) soon; the number of the batch that will hold it."""
        check(plugin, key, value)
        if self.failure is not None:
            raise self.failure
        if self._closed:
            raise LocalProtocolError(f"{self.path} is closed; {plugin}/{key} was not saved")
        slot = (plugin, key)
        self._filling[slot] = value
        self._recent[slot] = (self._number, value)
        self._quiet.clear()
        if not self._scheduled and self._writing is None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)
        return self._number

    async def flush(self) -> None:
        """Wait until everything put so far is durable, or the disk has failed."""
        await self._quiet.wait()

    async def close(self) -> None:
        """Flush, then let go of the folder. Idempotent."""
        if not self._closed:
            await self.flush()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the folder at once: what is not durable is lost, as in a crash. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._filling = {}
        self._quiet.set()
        self._thread.shutdown(wait=True, cancel_futures=True)  # a commit under way ends, fsync and all
        try:
            self._reader.close()
            self._writer.close()
        except sqlite3.Error:
            pass  # a damaged file was reported when it was written
        self._lock.close()

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._closed:
            raise LocalProtocolError(f"{self.path} is closed")
        try:
            return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from None

    def _turn(self) -> None:
        """One turn of the loop is over: hand its batch to the disk."""
        self._scheduled = False
        if self._writing is not None or not self._filling or self._closed or self.failure is not None:
            return
        number, batch = self._number, self._filling
        self._number += 1
        self._filling = {}
        loop = asyncio.get_running_loop()
        self._writing = self._thread.submit(_commit, self._writer, batch)
        self._writing.add_done_callback(
            lambda done: _tell(loop, lambda: self._committed(number, batch, done))
        )

    def _committed(self, number: int, batch: Batch, done: Future[None]) -> None:
        self._writing = None
        if self._closed:
            return
        error = done.exception()
        if error is not None:
            self.failure = StoreError(
                f"could not write {len(batch)} records to {self.path}: {error}. "
                "The node stops, since it may not act on what it cannot remember. "
                "Make room or repair the disk, then start it again."
            )
            self._quiet.set()
            self._on_failure(self.failure)
            return
        self.durable = number
        for slot in batch:
            if self._recent[slot][0] == number:
                del self._recent[slot]
        if self._filling:
            self._turn()
        else:
            self._quiet.set()
        self._on_durable(number)


def check(plugin: str, key: str, value: bytes | None) -> None:
    """Raises LocalProtocolError for what no store of any driver takes."""
    if len(key) > MAX_KEY:
        raise LocalProtocolError(f"{plugin} saves under a key of {len(key)} characters; limit {MAX_KEY}")
    if value is not None and len(value) > MAX_VALUE:
        raise LocalProtocolError(
            f"{plugin} saves {len(value)} bytes under {key!r}; limit {MAX_VALUE}. Save it in pieces."
        )


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)


def _open(path: Path) -> sqlite3.Connection:
    # isolation_level None: we say BEGIN and COMMIT ourselves. The thread check is off since the
    # writer is made here and used in the store's one thread, never in two at a time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # WAL with NORMAL loses commits in a power cut
    connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the disk's own cache
    connection.execute("PRAGMA cache_size = -512")  # KiB; small homes
    connection.execute("PRAGMA journal_size_limit = 16777216")  # the WAL shrinks again after a burst
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0 and version == 0:
        connection.executescript(
            "BEGIN;"
            "CREATE TABLE record (plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
            " PRIMARY KEY (plugin, key));"
            f"PRAGMA application_id = {_APPLICATION};"
            f"PRAGMA user_version = {_VERSION};"
            "COMMIT;"
        )
    elif application != _APPLICATION:
        raise StoreError(f"{path} is not a file of Grove's; move it away or choose another data folder")
    elif version != _VERSION:
        raise StoreError(
            f"{path} has tables of version {version}; this Grove reads version {_VERSION}. "
            "Start it with the Grove that wrote it, or choose another data folder."
        )


def _commit(connection: sqlite3.Connection, batch: Batch) -> None:
    """One transaction, in the store's thread. Raises what SQLite raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(
            "INSERT INTO record VALUES (?, ?, ?)"
            " ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value",
            ((*slot, value) for slot, value in batch.items() if value is not None),
        )
        connection.executemany(
            "DELETE FROM record WHERE plugin = ? AND key = ?",
            (slot for slot, value in batch.items() if value is None),
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled back already
            connection.execute("ROLLBACK")
        raise


def _lock(folder: Path) -> IO[str]:
    """Take the folder for this process. The kernel gives it back when we die, however we die."""
    path = folder / "lock"
    try:
        file = path.open("a+", encoding="ascii")
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror or error}") from None
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(1024)  # a byte beyond the text, so that others can read whose lock it is
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read(32).strip()
        file.close()
        raise StoreError(
            f"another node{f' (process {owner})' if owner else ''} is using the data folder {folder}. "
            "Stop it, or give this one a folder of its own with --data."
        ) from None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _sync_folder(folder: Path) -> None:
    """Make the names of new files durable too (POSIX; elsewhere the system does it)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
