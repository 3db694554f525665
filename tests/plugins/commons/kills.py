"""A group of real processes whose members are killed at random moments, some with a disk that forgets.

Never a majority at a time, counting who is down, who has not come back yet, and who forgot and does not
count yet. What was acknowledged is written down here, outside; every life says what it finds.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from grove_core.testing.loopback import free_ports
from tests.core.broken_disk import damage

BOUND = 60.0
"""Seconds a member may take to come back; it takes about one."""


class Member:
    """One node over all its lives, and what it said."""

    def __init__(self, group: Group, number: int) -> None:
        self.group, self.number = group, number
        self.folder = group.folder / str(number)
        self.life = 0
        self.losses = 0
        self.begin()

    def begin(self) -> None:
        self.life += 1
        self.is_ready = self.has_looked = False
        self.since = time.monotonic()
        self.due = dict(self.group.acknowledged)
        self.rest = b""
        job = {
            "number": self.number, "ports": self.group.ports, "kind": self.group.kind,
            "data": str(self.folder), "life": self.life,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.plugins.commons.writer", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.group.errors,
        )

    def kill(self) -> None:
        self.is_ready = False
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.hear(self.process.stdout.read(), is_last=True)
        self.process.stdout.close()
        self.process.stdin.close()

    def look(self) -> None:
        assert self.process.stdin is not None
        self.due = dict(self.group.acknowledged)
        self.process.stdin.write(b"look\n")
        self.process.stdin.flush()

    def hear(self, data: bytes, *, is_last: bool = False) -> None:
        assert data or is_last, f"node {self.number} ended by itself; {self.group.what_it_said()}"
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        for line in lines:
            self.heard(line.decode().split())

    def heard(self, words: list[str]) -> None:
        group = self.group
        match words:
            case ["lost", losses]:
                group.met["losses noticed"] += int(losses) - self.losses
                self.losses = int(losses)
            case ["saw", key, value]:
                due = self.due.pop(key, 0)
                assert int(value) >= due, (
                    f"{key} = {due} was acknowledged, node {self.number} has {value}"
                )
            case ["ready"]:
                assert not self.due, f"node {self.number} does not have {self.due}"
                self.is_ready = True
                group.slowest = max(group.slowest, time.monotonic() - self.since)
            case ["ack", key, value]:
                assert group.acknowledged.get(key, 0) < int(value)
                group.acknowledged[key] = int(value)
                group.met["writes"] += 1
            case ["looked"]:
                assert not self.due, f"node {self.number} does not have {self.due}"
                self.has_looked = True
            case _:
                raise AssertionError(words)


class Group:
    """n members of one kind of consensus, of which `tolerated` may be away."""

    def __init__(self, kind: str, nodes: int, tolerated: int, folder: Path, rng: Random) -> None:
        self.kind, self.tolerated, self.folder, self.rng = kind, tolerated, folder, rng
        self.ports = free_ports(nodes)
        self.acknowledged: dict[str, int] = {}
        self.met: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.slowest = 0.0
        self.errors = open(folder / "errors", "wb")  # noqa: SIM115
        self.members = [Member(self, number) for number in range(nodes)]

    def what_it_said(self) -> str:
        return (self.folder / "errors").read_text()[-2000:]

    def listen(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            by_output = {
                one.process.stdout: one
                for one in self.members
                if one.process.stdout is not None and not one.process.stdout.closed
            }
            ready, _, _ = select.select(list(by_output), [], [], left)
            for output in ready:
                by_output[output].hear(output.read1(1 << 16))

    def until(self, what: Any) -> None:
        while not what():
            for one in self.members:
                away = time.monotonic() - one.since
                assert one.is_ready or away < BOUND, (
                    f"node {one.number} is not back after {away:.0f} s; {self.what_it_said()}"
                )
            self.listen(0.02)

    def run(self, kills: int) -> None:
        """So many strikes, each of them a minority at one moment."""
        rng = self.rng
        self.until(lambda: all(one.is_ready for one in self.members))
        for strike in range(kills):
            self.listen(rng.expovariate(1 / 0.2))
            size = rng.randint(1, self.tolerated)
            again = rng.random() < 0.25  # those that are coming back, in the middle of it
            self.until(
                lambda size=size, again=again: (
                    self._away() <= self.tolerated - size or (again and self._away() == size)
                )
            )
            away = [one for one in self.members if not one.is_ready]
            victims = rng.sample(self.members, size)
            if len({*victims, *away}) > self.tolerated:
                victims = away
            for victim in victims:
                victim.kill()
                self.met["kills"] += 1
            for victim in victims:
                if rng.random() < 0.6 or not strike:
                    fault = damage(victim.folder, rng)
                    self.faults[" ".join(fault.split()[:3])] += fault != "nothing"
            self.met["strikes"] += 1
            if strike % 25 == 24:
                print(dict(self.met), flush=True)
            self.listen(rng.choice((0.0, 0.0, 0.1, 0.5)))
            for victim in victims:
                victim.begin()
        self.until(lambda: all(one.is_ready for one in self.members))

    def _away(self) -> int:
        return sum(not one.is_ready for one in self.members)

    def verdict(self) -> None:
        """At the end everybody has everything."""
        for one in self.members:
            one.look()
        for one in self.members:
            one.since = time.monotonic()
        self.until(lambda: all(one.has_looked for one in self.members))

    def end(self) -> None:
        for one in self.members:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
            for pipe in (one.process.stdin, one.process.stdout):
                if pipe is not None:
                    pipe.close()
        self.errors.close()
