"""Groups of voters as processes of their own, and the same few questions to each kind of them.

A *hand* is a process that proposes: for Grove and PySyncObj a voter itself, whose application proposes
where it stands; for etcd, and for Grove's local door, a client beside the voters. Every hand reads
questions on standard input and writes answers on standard output, one JSON object per line:

    {"do": "state"}                                     -> {"leads": bool}
    {"do": "load", "outstanding": 16, "seconds": 2}     -> {"rate", "p50", "p99"}  (1/s, ms, ms)
    {"do": "probe", "every": 0.02}                      -> {"at": monotonic time of the first commit}

A load is closed: so many commands are under way at any time, each followed by the next. The first
half second is not counted. A hand ends when its input does; whatever is killed, is killed by its pid.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VALUE = 256
"""Bytes of a command's value."""
KEYS = 1_000
WARM = 0.5
"""Seconds of a load that are not counted."""
START = 30.0
"""Seconds a group has to commit its first command."""

Put = Callable[[int], Awaitable[None]]
"""Has one value agreed on, under the key of a number; returns when it is. May raise: not agreed on."""


# --- the hand's side -------------------------------------------------------------------------------


async def load(put: Put, outstanding: int, seconds: float) -> dict[str, float]:
    """So many at a time, for so long."""
    begin = time.perf_counter()
    warm, end = begin + WARM, begin + WARM + seconds
    times: list[float] = []

    async def ask(number: int) -> None:
        while (sent := time.perf_counter()) < end:
            await put(number % KEYS)
            number += outstanding
            now = time.perf_counter()
            if warm <= now < end:
                times.append(now - sent)

    await asyncio.gather(*(ask(number) for number in range(outstanding)))
    return figures(times, seconds)


def figures(times: list[float], seconds: float) -> dict[str, float]:
    """What a load comes to; times in seconds."""
    times.sort()
    if not times:
        return {"rate": 0.0, "p50": float("nan"), "p99": float("nan")}
    return {
        "rate": len(times) / seconds,
        "p50": times[len(times) // 2] * 1e3,
        "p99": times[int(0.99 * len(times))] * 1e3,
    }


async def probe(put: Put, every: float) -> dict[str, float]:
    """When the first of a steady trickle of commands was agreed on."""
    first: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def ask(number: int) -> None:
        try:
            await put(number % KEYS)
        except Exception:  # refused or lost: another one is on its way
            return
        if not first.done():
            first.set_result(time.monotonic())

    asked: set[asyncio.Task[None]] = set()
    number = 0
    while not first.done():
        task = asyncio.create_task(ask(number))
        asked.add(task)
        task.add_done_callback(asked.discard)
        number += 1
        await asyncio.wait([first], timeout=every)
    for task in asked:
        task.cancel()
    return {"at": first.result()}


async def answer(put: Put, leads: Callable[[], bool]) -> None:
    """A hand's life: questions, one after the other, until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print("{}", flush=True)
    while line := await reader.readline():
        ask = json.loads(line)
        if ask["do"] == "load":
            said: dict[str, Any] = await load(put, ask["outstanding"], ask["seconds"])
        elif ask["do"] == "probe":
            said = await probe(put, ask["every"])
        else:
            said = {"leads": leads()}
        print(json.dumps(said), flush=True)


# --- the group's side ------------------------------------------------------------------------------


class Process:
    """A process that we started, and, if it is a hand, ask."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command = command
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    async def begin(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                cwd=ROOT,
            )  # fmt: skip

    @property
    def running(self) -> asyncio.subprocess.Process:
        assert self.process is not None
        return self.process

    async def ready(self) -> None:
        """Its first line."""
        await self._line()

    async def ask(self, **question: Any) -> dict[str, Any]:
        stdin = self.running.stdin
        assert stdin is not None
        stdin.write(json.dumps(question).encode() + b"\n")
        return await self._line()

    async def _line(self) -> dict[str, Any]:
        stdout = self.running.stdout
        assert stdout is not None
        async with asyncio.timeout(60):
            line = await stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command[:4])} … ended; see {self.log}")
        said: dict[str, Any] = json.loads(line)
        return said

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        with open(f"/proc/{self.running.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.running
        if process.returncode is None:
            process.send_signal(how)
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


class Group:
    """Voters 0 … n - 1. A kind of group says how its processes are started, and who leads."""

    name = ""
    promise = ""
    """In a word, what an acknowledged command survives: stands beside each figure."""
    durability = ""
    """The same in a sentence."""
    place = ""
    """Where the proposer stands."""

    def __init__(self, nodes: int, folder: Path, timeout: float | None = None) -> None:
        """timeout: T, the election timeout drawn from [T, 2T) s; None: its defaults."""
        self.nodes, self.folder, self.timeout = nodes, folder, timeout
        self.voters: list[Process] = []

    @classmethod
    def label(cls) -> str:
        """As in the table."""
        return f"{cls.name} [{cls.promise}]"

    @classmethod
    def missing(cls) -> str:
        """Why this kind cannot be measured here; empty if it can."""
        return ""

    async def start(self) -> None:
        """Until a first command is agreed on."""
        for voter in self.voters:
            await voter.begin()
        for voter in self.voters:
            await voter.ready()
        async with asyncio.timeout(START):
            for voter in self.voters:
                await voter.ask(do="probe", every=0.1)

    async def leader(self) -> int:
        """The number of the voter that leads; waits until there is one."""
        async with asyncio.timeout(START):
            while True:
                for number, voter in enumerate(self.voters):
                    if (await voter.ask(do="state"))["leads"]:
                        return number
                await asyncio.sleep(0.05)

    async def load(self, outstanding: int, seconds: float) -> dict[str, float]:
        """At the leader; with `cpu`, ms of processor time of all processes per command."""
        hand = self.voters[await self.leader()]
        return await self.measured(hand, outstanding, seconds)

    async def measured(self, hand: Process, outstanding: int, seconds: float) -> dict[str, float]:
        cpu = sum(process.cpu() for process in self.processes())
        said = await hand.ask(do="load", outstanding=outstanding, seconds=seconds)
        cpu = sum(process.cpu() for process in self.processes()) - cpu
        count = said["rate"] * (seconds + WARM)  # the first half second worked too
        return {**said, "cpu": cpu / count * 1e3 if count else float("nan")}

    def processes(self) -> list[Process]:
        return self.voters

    async def fail_over(self) -> float:
        """Kill the leader; seconds until a command asked for after that is agreed on. Then heal."""
        number = await self.leader()
        others = [voter for voter in self.voters if voter is not self.voters[number]]
        begin = time.monotonic()
        self.voters[number].running.kill()
        said = await asyncio.gather(*(voter.ask(do="probe", every=0.02) for voter in others))
        gap = min(one["at"] for one in said) - begin
        await self.voters[number].end()
        await self.voters[number].begin()
        await self.voters[number].ready()
        for voter in self.voters:  # all are in again
            await voter.ask(do="probe", every=0.1)
        return gap

    async def stop(self) -> None:
        for process in self.processes():
            if process.process is not None:
                await process.end()
