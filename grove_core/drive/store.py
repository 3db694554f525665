"""The records of a node: what `ctx.save` means on a real disk.

What the file is, and how it is known to be whole, is `records.py`. Here: everything that was put
during one turn of the event loop becomes one transaction, committed with fsync in a thread of its own
while the loop goes on; what is put meanwhile waits for the next one (group commit). A batch has a
number, and `durable` says up to which number everything is on the disk.

Invariants:
1. `load` and `keys` see what was put, durable or not.
2. `durable` grows only after fsync: a batch it covers survives `kill -9` and, on a disk that keeps
   its word, a power cut.
3. After a write has failed nothing is ever called durable again.
4. If the disk has lost what was durable, each plugin finds `LOST` among its records until it erases it.
5. One process owns the folder: the lock is the kernel's, so it ends with the process.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from grove_core.drive.records import Batch, Records, Slot, StoreError
from grove_core.errors import LocalProtocolError
from grove_core.machine import LOST

__all__ = ["MAX_KEY", "MAX_VALUE", "Store", "StoreError", "check"]

MAX_KEY = 255
"""Longest key in characters."""

MAX_VALUE = 16 * 1024 * 1024
"""Longest value in bytes."""


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
            self.records = Records(folder)
        except (sqlite3.Error, OSError) as error:
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
        """The value last put, or None. Under `LOST`: the loss that the plugin does not know of."""
        recent = self._recent.get((plugin, key))
        value = recent[1] if recent is not None else self._open().load(plugin, key)
        if key == LOST:
            loss = self.records.losses
            return None if int.from_bytes(value or b"", "big") >= loss else loss.to_bytes(8, "big")
        return value

    def keys(self, plugin: str, prefix: str = "") -> tuple[str, ...]:
        """The keys of a plugin that start with prefix, ascending by code point."""
        found = set(self._open().keys(plugin, prefix))
        for (owner, key), (_, value) in self._recent.items():
            if owner == plugin and key.startswith(prefix):
                if value is None:
                    found.discard(key)
                else:
                    found.add(key)
        found.discard(LOST)
        return tuple(sorted(found))

    def put(self, plugin: str, key: str, value: bytes | None) -> int:
        """Write (or, with None, erase) soon; the number of the batch that will hold it."""
        check(plugin, key, value)
        if self.failure is not None:
            raise self.failure
        if self._closed:
            raise LocalProtocolError(f"{self.path} is closed; {plugin}/{key} was not saved")
        if key == LOST:
            value = self.records.losses.to_bytes(8, "big")  # this is the last one it knows of
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
        self.records.close()
        self._lock.close()

    def _open(self) -> Records:
        if self._closed:
            raise LocalProtocolError(f"{self.path} is closed")
        return self.records

    def _turn(self) -> None:
        """One turn of the loop is over: hand its batch to the disk."""
        self._scheduled = False
        if self._writing is not None or not self._filling or self._closed or self.failure is not None:
            return
        number, batch = self._number, self._filling
        self._number += 1
        self._filling = {}
        loop = asyncio.get_running_loop()
        self._writing = self._thread.submit(self.records.commit, batch)
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
