"""Claims between real processes over TCP and Raft, with `kill -9`, SIGSTOP and cut wires.

Issue 4, acceptance 5. GROVE_FULL=1: 5 nodes, 50 agents, 1,000 tasks, and misfortune all the while.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from grove_core.testing.loopback import free_ports
from tests.plugins.commons.wires import Wires

FULL = os.environ.get("GROVE_FULL") == "1"
NODES, AGENTS, TASKS = (5, 10, 1000) if FULL else (3, 4, 36)
LEASE = 1.0  # s
WORK = 1.0 if FULL else 0.7  # s, on average
BOUND = 600.0 if FULL else 60.0  # s; the small one takes about 8 on an idle machine


class Process:
    """A node with its agents, over all its lives."""

    def __init__(self, number: int, wires: Wires, data: Path) -> None:
        self.job = {
            "number": number, "ports": wires.ports, "through": wires.through[number],
            "data": str(data / str(number)),
            "tasks": TASKS, "agents": AGENTS, "lease": LEASE, "work": WORK,
        }  # fmt: skip
        self.lives = 0
        self.begin()

    @property
    def number(self) -> int:
        return int(str(self.job["number"]))

    def begin(self) -> None:
        self.is_stopped = self.has_finished = False
        self.lives += 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.plugins.commons.process", json.dumps(self.job)],
            stdout=subprocess.PIPE,
        )

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def events(self) -> list[dict[str, Any]]:
        file = Path(str(self.job["data"])) / "events"
        lines = file.read_bytes().split(b"\n") if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"}")]


class Trouble:
    """One misfortune at a time, and its end. Moved by `move`.

    A node is killed, stopped, cut off, or only one way: it hears nobody, or nobody hears it; or all are
    in two parts.
    """

    def __init__(self, processes: list[Process], wires: Wires, rng: random.Random) -> None:
        self.processes, self.wires, self.rng = processes, wires, rng
        kinds = ("killed", "stopped", "cut off", "deaf", "mute", "in two parts")
        self.done: dict[str, int] = dict.fromkeys(kinds, 0)
        self.victim: Process | None = None
        self.at = time.monotonic() + 1.5

    def move(self, *, is_over: bool) -> None:
        if time.monotonic() < self.at:
            return
        if self.victim is not None:
            self.relieve(self.victim)
            self.victim = None
            self.at = time.monotonic() + self.rng.uniform(0.2, 1.0)
        elif not is_over:
            self.victim = self.rng.choice(self.processes)
            self.strike(self.victim)
            self.at = time.monotonic() + self.rng.uniform(0.2, 3 * LEASE)

    def strike(self, victim: Process) -> None:
        kind = min(self.done, key=lambda kind: (self.done[kind], self.rng.random()))
        self.done[kind] += 1
        if kind == "killed":
            victim.end()
        elif kind == "stopped":
            victim.process.send_signal(signal.SIGSTOP)
            victim.is_stopped = True
        else:
            everybody = range(len(self.processes))
            one = {victim.number}
            if kind == "in two parts":
                one = set(self.rng.sample(everybody, len(everybody) // 2))
            out = [(x, y) for x in one for y in everybody if y not in one]
            back = [(y, x) for x, y in out]
            self.wires.cut(out * (kind != "deaf") + back * (kind != "mute"))

    def relieve(self, victim: Process) -> None:
        if victim.is_stopped:
            victim.process.send_signal(signal.SIGCONT)
            victim.is_stopped = False
        elif victim.process.returncode is not None:
            victim.begin()
        else:
            self.wires.mend()


@pytest.mark.claim("commons.processes")
def test_killed_stopped_and_cut_off_no_old_token_is_accepted_and_every_task_finishes(
    record_property: Any,
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed} (of the misfortunes; the rest is real)")
    wires = Wires(free_ports(NODES))
    with tempfile.TemporaryDirectory(prefix="grove-") as folder:
        processes = [Process(number, wires, Path(folder)) for number in range(NODES)]
        trouble = Trouble(processes, wires, random.Random(seed))
        began = time.monotonic()
        try:
            while not all(one.has_finished for one in processes):
                assert time.monotonic() - began < BOUND, [one.has_finished for one in processes]
                readable = [one.process.stdout for one in processes if one.process.stdout
                            and not one.process.stdout.closed and one.process.poll() is None]  # fmt: skip
                ready, _, _ = select.select(readable, [], [], 0.05)
                for one in processes:
                    if one.process.stdout in ready:
                        assert one.process.stdout is not None
                        line = one.process.stdout.readline()
                        one.has_finished |= line == b"finished\n"
                        assert line or one is trouble.victim, f"node {one.job['number']} ended by itself"
                trouble.move(is_over=any(one.has_finished for one in processes))
        finally:
            for one in processes:
                if one.process.poll() is None:
                    one.end()
            wires.close()
        took = time.monotonic() - began
        record_property("measured", verdict(processes, trouble, took))


def verdict(processes: list[Process], trouble: Trouble, took: float) -> str:
    """From what all nodes heard, life by life, and what all agents were told."""
    granted: dict[str, dict[int, str]] = {}
    done: dict[str, tuple[int, str]] = {}
    told = [event for one in processes for event in one.events()]
    for event in told:
        if event["event"] == "claim_granted":
            holder = f"{event['holder']} {event['agent']}"
            known = granted.setdefault(event["task"], {}).setdefault(event["token"], holder)
            assert known == holder, "one token, one holder"
        elif event["event"] == "task_done":
            result = (event["token"], event["holder"])
            assert done.setdefault(event["task"], result) == result, "one result per task"
    assert len(done) == TASKS, "every task finishes"
    for task, (token, _) in done.items():
        later = [other for other in granted.get(task, {}) if other > token]
        assert not later, f"{task} was done with fence {token}, and {later} were granted"
    accepted = [event for event in told if event["event"] == "accepted"]
    for event in accepted:
        assert event["token"] == done[event["task"]][0], "accepted with the token it was done with"
    refused = sum(event["event"] == "refused" for event in told)
    lost = sum(event["event"] == "claim_lost" for event in told)
    measured = (
        f"{TASKS} tasks by {NODES * AGENTS} agents in {took:.1f} s; {trouble.done}; "
        f"{sum(map(len, granted.values()))} claims, {refused} results refused, {lost} claims lost, "
        f"0 accepted with an old token; {trouble.wires.carried >> 20} MiB over wires cut "
        f"{trouble.wires.cuts} times"
    )
    print(measured)
    return measured
