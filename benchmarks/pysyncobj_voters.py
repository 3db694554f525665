"""PySyncObj for `consensus.py`: as it comes, without batching, and with its journal made durable.

    python -m benchmarks.pysyncobj_voters '{"number": 0, "ports": […], …}'

The application proposes in the leader's process (`@replicated`), its callback on the library's own
thread proposes the next: no event loop of ours in its way. The journal is a file mapped into memory
that nothing ever flushes (its `flush` is called by nobody, and there is no option for it), so the
third variant does it here, after each entry, which is what the promise of the others costs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.voters import KEYS, VALUE, WARM, Group, Process, figures
from grove_core.testing.loopback import free_ports


def flush_every_entry() -> None:
    """Let an entry be on the disk before anything tells of it."""
    from pysyncobj import journal

    add = journal.FileJournal.add

    def added(self: Any, *entry: Any) -> None:
        add(self, *entry)
        self.flush()

    journal.FileJournal.add = added


def voter(job: dict[str, Any]) -> None:
    from pysyncobj import SyncObj, SyncObjConf, replicated

    if job["flush"]:
        flush_every_entry()

    class Map(SyncObj):
        def __init__(self, me: str, others: list[str], conf: Any) -> None:
            super().__init__(me, others, conf)
            self.values: dict[str, bytes] = {}

        @replicated
        def put(self, key: str, value: bytes) -> None:
            self.values[key] = value

    names = [f"127.0.0.1:{port}" for port in job["ports"]]
    me = names.pop(job["number"])
    shared = Map(me, names, SyncObjConf(journalFile=job["journal"], **job["conf"]))
    print("{}", flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["do"] == "load":
            said: dict[str, Any] = load(shared, ask["outstanding"], ask["seconds"])
        elif ask["do"] == "probe":
            said = probe(shared, ask["every"])
        else:
            said = {"leads": shared._isLeader()}
        print(json.dumps(said), flush=True)
    os._exit(0)


def load(shared: Any, outstanding: int, seconds: float) -> dict[str, float]:
    """As `voters.load`, by callbacks."""
    value = os.urandom(VALUE)
    begin = time.perf_counter()
    warm, end = begin + WARM, begin + WARM + seconds
    times: list[float] = []
    left = threading.Semaphore(0)

    def ask(number: int) -> None:
        sent = time.perf_counter()
        if sent >= end:
            left.release()
            return

        def done(result: Any, error: Any) -> None:
            now = time.perf_counter()
            if not error and warm <= now < end:
                times.append(now - sent)
            ask(number + outstanding)

        shared.put(f"key-{number % KEYS}", value, callback=done)

    for number in range(outstanding):
        ask(number)
    for _ in range(outstanding):
        left.acquire()
    return figures(times, seconds)


def probe(shared: Any, every: float) -> dict[str, float]:
    """As `voters.probe`."""
    value = os.urandom(VALUE)
    at: list[float] = []
    known = threading.Event()

    def done(result: Any, error: Any) -> None:
        if not error:
            at.append(time.monotonic())
            known.set()

    number = 0
    while not known.is_set():
        shared.put(f"key-{number % KEYS}", value, callback=done)
        number += 1
        known.wait(every)
    return {"at": at[0]}


class PySyncObj(Group):
    """As it comes."""

    name = "pysyncobj"
    promise = "no sync"
    durability = "journal file, never flushed: lost in a power cut; no encryption"
    place = "in the leader's process: a replicated method until its callback"
    conf: ClassVar[dict[str, Any]] = {}
    flush = False

    def __init__(self, nodes: int, folder: Path, timeout: float | None = None) -> None:
        super().__init__(nodes, folder, timeout)
        ports = free_ports(nodes)
        conf = dict(self.conf)
        if timeout is not None:  # it wants three appends in a timeout, and more than that
            conf |= {"raftMinTimeout": timeout, "raftMaxTimeout": 2 * timeout}
            conf |= {"appendEntriesPeriod": min(0.1, timeout / 4), "connectionRetryTime": 1.0}
        for number in range(nodes):
            job = {
                "number": number, "ports": ports, "journal": str(folder / f"{number}.journal"),
                "conf": conf, "flush": self.flush,
            }  # fmt: skip
            command = [sys.executable, "-m", "benchmarks.pysyncobj_voters", json.dumps(job)]
            self.voters.append(Process(command, folder / f"{number}.log"))

    @classmethod
    def missing(cls) -> str:
        return "" if find_spec("pysyncobj") else "pysyncobj is not installed (pip install -e '.[bench]')"


class Unbatched(PySyncObj):
    """Each command leaves at once."""

    name = "pysyncobj unbatched"
    conf: ClassVar[dict[str, Any]] = {"appendEntriesUseBatch": False}


class Flushed(Unbatched):
    """What a durable journal would cost it."""

    name = "pysyncobj flushed"
    promise = "msync"
    durability = "journal flushed (msync) after each entry, which we added; votes not; no encryption"
    flush = True


if __name__ == "__main__":
    voter(json.loads(sys.argv[1]))
