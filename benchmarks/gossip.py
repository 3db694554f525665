"""GossipSub on real nodes, beside js-libp2p's: processor time of a delivery, deliveries a second, delays.

    python benchmarks/gossip.py [--rounds 5] [--scale 1.0] [--nodes 2 8 20] [--sides grove js]

Nodes are connected all to all over TCP, Noise and yamux on loopback. At saturation every node publishes
in turn, with AT_ONCE messages at a time not yet heard by everybody. A delivery is one message at one of
the others. A loss of ours ends the run with an error; js's are counted.

    grove    all nodes in one process, as js; they then share what is remembered of a message (its bytes
             as read, what is signed of it, its id), so that for every node but the first it is free
    apart    the same nodes in a process each: nothing is shared, and each loop has less to do at once
    js       js-libp2p, all nodes in one process

A village has a process (apart: processes) of its own and is measured at each size in a shuffled order;
sides and villages take turns in a shuffled order too. Ratios are of one round's two figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import multiprocessing
import os
import pstats
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from grove_core.drive.live import Node
from grove_core.events import Delivered
from grove_core.identity import Identity
from tests.interop.js_peer import Missing, installed
from tests.interop.js_village import LISTEN, SETTINGS, JsVillage, Village, Villager

TOPIC = "bench"
NODES = (2, 8, 20)
SIZES = (100, 1024, 32 * 1024)
SIGNING = ("strict", "none")
DELIVERIES = {100: 6000, 1024: 6000, 32 * 1024: 1500}
"""Deliveries of one measure, by size; a third of it goes before, unmeasured."""
AT_ONCE = {100: 64, 1024: 64, 32 * 1024: 8}
WARM = 1500
"""Deliveries before anything is measured in a village: V8 compiles what runs often."""
PACE = 10.0  # ms between messages where delays are measured: 100 a second
PACED = 500
PATIENCE = 300.0  # s for one measure
AIM = {"strict": (0.5, 2), "none": (1.0, 8)}
"""Issue 3, acceptance 5: at most this part of js's processor time, from so many nodes on."""

Case = tuple[int, str]
"""A village: how many nodes, and how they sign."""

Asked = list[dict[str, Any]]
Told = list[dict[str, Any]]


def count_of(nodes: int, size: int, scale: float) -> int:
    """Messages of one measure: twice what is on the way at once, or more."""
    return max(int(DELIVERIES[size] * scale) // (nodes - 1), 2 * AT_ONCE[size])


def flows(nodes: int, size: int, scale: float) -> Asked:
    """What is asked of a village for one measure: to warm up, and then in earnest."""
    count = count_of(nodes, size, scale)
    flow = {"size": size, "atOnce": AT_ONCE[size]}
    return [flow | {"count": max(count // 3, 20)}, flow | {"count": count}]


# js, and ours in processes of their own.


async def ours(nodes: int, signing: str, asked: Asked) -> Told:
    return await _child("--ours", nodes, signing, asked)


async def apart(nodes: int, signing: str, asked: Asked) -> Told:
    return await _child("--apart", nodes, signing, asked)


async def _child(how: str, *what: Any) -> Told:
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, how, json.dumps(what), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        told, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"our village {how} {what} ended with {child.returncode}")
    found: Told = json.loads(told)
    return found


async def theirs(nodes: int, signing: str, asked: Asked) -> Told:
    js = await asyncio.to_thread(
        lambda: JsVillage(nodes=nodes, signing=signing, listen=[LISTEN["tcp"]], observe=False)
    )
    try:
        await js.do("connect", timeout=PATIENCE)
        await js.do("subscribe", topic=TOPIC)
        mesh = min(nodes - 1, 4)
        await js.do("settle", topic=TOPIC, subscribers=nodes - 1, mesh=mesh, timeout=60.0)
        return [await js.do("flow", topic=TOPIC, timeout=PATIENCE, **flow) for flow in asked]
    finally:
        await asyncio.to_thread(js.close)


# Ours, in this process.


@asynccontextmanager
async def member(signing: str, made: Village, data: Path) -> AsyncIterator[Villager]:
    """A node of a village."""
    settings = {**SETTINGS, "node.listen": [LISTEN["tcp"]], "plugins.gossipsub.signing": signing}
    del settings["plugins.gossipsub.scores"]  # js scores nobody without parameters for the topic either
    node = Node.from_profile("super-peer", data=data, set=settings, identity=Identity.generate())
    async with node:
        made.members.append(Villager(node, made.changed))
        yield made.members[-1]


async def village(nodes: int, signing: str, asked: Asked, *, profile: Any = None) -> Told:
    """So many nodes of ours in this process, and what came of the flows. profile: of the last of them."""
    made = Village()
    told = []
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grove-")))
        for number in range(nodes):
            await stack.enter_async_context(member(signing, made, folder / str(number)))
        await made.connect()
        made.subscribe(TOPIC)
        await made.settle(TOPIC, subscribers=nodes - 1, mesh=min(nodes - 1, 4))
        for run, one in enumerate(asked):
            if profile is not None and run == len(asked) - 1:
                profile.enable()
            told.append(await flow(made, run, **one))
        if profile is not None:
            profile.disable()
    return told


def message(number: int, run: int, size: int) -> bytes:
    """Without signatures equal data is one message: the run makes them different."""
    return (number.to_bytes(4, "big") + run.to_bytes(4, "big")).ljust(size, b"\0")


@asynccontextmanager
async def hearing(members: Sequence[Villager], hear: Any) -> AsyncIterator[None]:
    """While it lasts, `hear(member, event)` is called with what each of them hears from others."""

    async def listen(one: Villager, ready: asyncio.Event) -> None:
        async with one.node.watch(Delivered, limit=100_000) as events:
            ready.set()
            async for event in events:
                if isinstance(event, Delivered) and event.hops:
                    hear(event)

    ready = [asyncio.Event() for _ in members]
    ears = [asyncio.create_task(listen(*pair)) for pair in zip(members, ready, strict=True)]
    for one in ready:
        await one.wait()
    try:
        yield
    finally:
        for ear in ears:
            ear.cancel()
        await asyncio.gather(*ears, return_exceptions=True)


async def flow(
    made: Village, run: int, *, size: int, count: int, atOnce: int, every: float = 0
) -> dict[str, Any]:
    """See `flow` in js/village.mjs."""
    members = made.members
    left, sent, delays = [len(members) - 1] * count, [0.0] * count, []
    begun = done = 0
    over = asyncio.Event()

    def publish() -> None:
        nonlocal begun
        number, begun = begun, begun + 1
        sent[number] = time.perf_counter()
        members[number % len(members)].node.broadcast.publish(TOPIC, message(number, run, size))

    def hear(event: Delivered) -> None:
        nonlocal done
        number = int.from_bytes(event.data[:4], "big")
        if every:
            delays.append((time.perf_counter() - sent[number]) * 1e3)
        left[number] -= 1
        if left[number]:
            return
        done += 1
        if done == count:
            over.set()
        while not every and begun - done < atOnce and begun < count:
            publish()

    async with hearing(members, hear):
        start, cpu = time.perf_counter(), time.process_time()
        if every:
            while begun < count:
                publish()
                await asyncio.sleep(start + begun * every / 1e3 - time.perf_counter())
        else:
            while begun < min(atOnce, count):
                publish()
        async with asyncio.timeout(PATIENCE):
            await over.wait()
        return {
            "ms": (time.perf_counter() - start) * 1e3,
            "cpu": (time.process_time() - cpu) * 1e6,
            "delays": delays,
            "lost": sum(left),
        }


# Ours, a process each.


def villages_apart(nodes: int, signing: str, asked: Asked) -> Told:
    """As `village`. The processes are forked from this one, which only says what to do when."""
    fork = multiprocessing.get_context("fork")
    lines: list[Connection] = []
    for number in range(nodes):
        line, other = fork.Pipe()
        fork.Process(target=_recluse, args=(other, number, nodes, signing), daemon=True).start()
        other.close()
        lines.append(line)
    addresses = [line.recv() for line in lines]
    for number, line in enumerate(lines):  # each pair once
        line.send(addresses[:number])
        line.recv()
    together(lines, "subscribe and settle")
    told = []
    for run, one in enumerate(asked):
        together(lines, {**one, "run": run})
        start = time.perf_counter()
        together(lines, "go")
        took = (time.perf_counter() - start) * 1e3
        told.append({"ms": took, "cpu": sum(together(lines, "enough")), "delays": [], "lost": 0})
    together(lines, None)
    return told


def together(lines: list[Connection], order: Any) -> list[Any]:
    """Give all an order, and wait for what each of them answers."""
    for line in lines:
        line.send(order)
    return [line.recv() for line in lines]


def _recluse(line: Connection, number: int, nodes: int, signing: str) -> None:
    asyncio.run(recluse(line, number, nodes, signing))


async def recluse(line: Connection, number: int, nodes: int, signing: str) -> None:
    """A node alone in its process."""

    async def order() -> Any:
        return await asyncio.to_thread(line.recv)

    made = Village()
    with tempfile.TemporaryDirectory(prefix="grove-") as folder:
        async with member(signing, made, Path(folder)) as me:
            line.send(me.node.addresses[0].with_peer(me.node.peer))
            for address in await order():
                await me.node.connect(address)
            line.send(None)
            await order()
            made.subscribe(TOPIC)
            await made.settle(TOPIC, subscribers=nodes - 1, mesh=min(nodes - 1, 4))
            line.send(None)
            while (asked := await order()) is not None:
                heard, over = Share(me, number, nodes, **asked), asyncio.Event()
                heard.over = over
                async with hearing([me], heard.hear):
                    line.send(None)
                    await order()
                    cpu = time.process_time()
                    heard.publish()
                    async with asyncio.timeout(PATIENCE):
                        await over.wait()
                    line.send(None)
                    await order()  # until then it still passes on to others
                    line.send((time.process_time() - cpu) * 1e6)
            line.send(None)


class Share:
    """One node's part in a flow: of messages 0, 1, … every nodes-th is its own.

    It knows only what it has heard itself: number k is published when all up to k - atOnce are here.
    """

    over: asyncio.Event

    def __init__(
        self, me: Villager, number: int, nodes: int, *, run: int, size: int, count: int, atOnce: int
    ) -> None:
        self._me = me
        self._run, self._size, self._ahead = run, size, atOnce
        self._own = list(range(number, count, nodes))[::-1]
        self._is_here = [False] * count + [False]
        self._whole = 0  # all below are here
        self._count = count

    def hear(self, event: Delivered) -> None:
        self._is_here[int.from_bytes(event.data[:4], "big")] = True
        self.publish()

    def publish(self) -> None:
        """Whatever may go now."""
        while True:
            while self._is_here[self._whole]:
                self._whole += 1
            if not self._own or self._own[-1] >= self._whole + self._ahead:
                break
            number = self._own.pop()
            self._is_here[number] = True
            self._me.node.broadcast.publish(TOPIC, message(number, self._run, self._size))
        if self._whole == self._count:
            self.over.set()


# Rounds.


class Figures:
    """What was measured, by side and measure; kept in a file after each village, if there is one.

    Each carries the time when its round began: figures of one round are compared with each other.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.round = 0.0
        self._cells: dict[str, list[dict[str, float]]] = {}
        if file is not None and file.exists():
            self._cells = json.loads(file.read_text())

    def add(self, side: str, measure: str, found: dict[str, float]) -> None:
        self._cells.setdefault(f"{side}, {measure}", []).append(found | {"round": self.round})
        if self._file is not None:
            self._file.write_text(json.dumps(self._cells))
        print(f"{side}, {measure}: {found}", file=sys.stderr)

    def by_round(self, side: str, measure: str, what: str) -> dict[float, float]:
        """One figure of every round that gave one."""
        told = self._cells.get(f"{side}, {measure}", ())
        return {one["round"]: one[what] for one in told if one.get(what) is not None}

    def of(self, side: str, measure: str, what: str) -> list[float]:
        return list(self.by_round(side, measure, what).values())

    def ratios(self, side: str, other: str, measure: str, what: str) -> list[float]:
        """Of each round in which both were measured."""
        mine, others = (self.by_round(one, measure, what) for one in (side, other))
        return [mine[number] / others[number] for number in mine if number in others]


def named(nodes: int, size: int, signing: str) -> str:
    return f"{nodes} nodes, {size} B, {signing}"


SATURATED = {"grove": ours, "apart": apart, "js": theirs}
IDLE = {"grove": ours, "js": theirs}
DELAY = "delay"


async def compare(
    figures: Figures, rounds: int, scale: float, nodes: Sequence[int], sides: Sequence[str]
) -> None:
    """Measure it all so many times."""
    missing = await _missing()
    jobs = [
        (side, partial(saturate, figures, side, n, signing, scale))
        for side in SATURATED
        for n in nodes
        for signing in SIGNING
        if side in sides
    ]
    slow = [(side, partial(idle, figures, side, scale)) for side in IDLE if side in sides and 8 in nodes]
    for _ in range(rounds):
        figures.round = time.time()
        for side, measure in random.sample([*jobs, *slow], len(jobs) + len(slow)):
            if not (side == "js" and missing):
                await measure()


async def _missing() -> bool:
    try:
        await asyncio.to_thread(installed)
    except Missing as missing:
        print(f"without js-libp2p: {missing}", file=sys.stderr)
        return True
    return False


async def saturate(figures: Figures, side: str, nodes: int, signing: str, scale: float) -> None:
    """One village at all sizes."""
    sizes = random.sample(SIZES, len(SIZES))
    asked = [one for size in sizes for one in flows(nodes, size, scale)]
    warm = {"size": 100, "atOnce": AT_ONCE[100], "count": WARM // (nodes - 1)}
    told = await SATURATED[side](nodes, signing, [warm, *asked])
    for size, one in zip(sizes, told[2::2], strict=True):
        count = count_of(nodes, size, scale) * (nodes - 1)
        heard = count - one["lost"]
        found = {
            "lost": one["lost"],
            "load": os.getloadavg()[0],
        }
        if heard > count / 2:  # else it is no figure of a delivery
            found |= {"us": one["cpu"] / heard, "rate": heard / one["ms"] * 1e3}
        figures.add(side, named(nodes, size, signing), found)


async def idle(figures: Figures, side: str, scale: float) -> None:
    """How long messages take when nobody is busy."""
    paced = {"size": 1024, "atOnce": 1, "count": int(PACED * min(scale, 1)), "every": PACE}
    warm = {"size": 1024, "atOnce": AT_ONCE[1024], "count": WARM // 7}
    told = await IDLE[side](8, "strict", [warm, paced])
    took = sorted(told[-1]["delays"])
    figures.add(side, DELAY, {"p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]})


# Tables.


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the least and the greatest."""
    if not values:
        return "-"
    low, middle, high = (format(f(values), form) for f in (min, statistics.median, max))
    return f"{middle} ({low} {high})"


def tables(figures: Figures, nodes: Sequence[int]) -> None:
    """Print processor time of a delivery, its ratio to js, deliveries a second, losses and delays."""
    print(
        f"{'nodes':>5} {'bytes':>5} {'signed':>6} {'grove us':>16} {'apart us':>16} {'js us':>18}"
        f" {'grove / js':>16} {'apart / js':>16} {'grove/s':>7} {'js/s':>6} {'lost':>6} {'rounds':>6}"
    )
    missed, loads = [], []
    for case in [(n, size, signing) for n in nodes for size in SIZES for signing in SIGNING]:
        name, (n, size, signing) = named(*case), case
        us = {side: figures.of(side, name, "us") for side in SATURATED}
        ratios = {side: figures.ratios(side, "js", name, "us") for side in ("grove", "apart")}
        rates = {side: figures.of(side, name, "rate") for side in SATURATED}
        lost = {side: sum(figures.of(side, name, "lost")) for side in SATURATED}
        loads += figures.of("grove", name, "load")
        aim, least = AIM[signing]
        if n >= least and any(of and statistics.median(of) > aim for of in ratios.values()):
            missed.append(name)
        rate = {side: statistics.median(rates[side] or [0]) for side in rates}
        print(
            f"{n:>5} {size:>5} {'yes' if signing == 'strict' else 'no':>6}"
            f" {spread(us['grove'], '.0f'):>16} {spread(us['apart'], '.0f'):>16}"
            f" {spread(us['js'], '.0f'):>18}"
            f" {spread(ratios['grove'], '.2f'):>16} {spread(ratios['apart'], '.2f'):>16}"
            f" {rate['grove']:>7.0f} {rate['js']:>6.0f}"
            f" {lost['grove'] + lost['apart']:>2.0f} :{lost['js']:>2.0f}"
            f" {'/'.join(str(len(us[side])) for side in SATURATED):>6}"
        )
    print(
        "\nus: processor time of a delivery; /s: deliveries a second at saturation; lost: of all rounds,"
        "\nours : theirs (a round in which half was lost gives no other figure)."
        "\nMedians, with the least and the greatest. Aim: 0.5 of js signed, 1.0 unsigned"
        f"\nfrom 8 nodes on; missed: {'; '.join(missed) or 'nowhere'}. Load {spread(loads, '.0f')}"
        f" on {os.cpu_count()} cores.\n"
    )
    for side in IDLE:
        print(
            f"{side:>5}: 8 nodes, 1 KiB, signed, 100 messages/s: delay p50"
            f" {spread(figures.of(side, DELAY, 'p50'), '.1f')} ms, p99"
            f" {spread(figures.of(side, DELAY, 'p99'), '.1f')} ms"
        )


# Where the time goes.

PARTS = {
    "signatures": ("ed25519",),
    "hashes": ("sha256",),
    "cipher": ("ChaCha20Poly1305",),
    "sockets and epoll": ("_socket.socket", "select.epoll"),
    "asyncio": ("asyncio",),
    "gossipsub": ("grove_gossipsub", "protobuf"),
    "TCP, Noise, yamux": ("grove_tcp", "grove_libp2p"),
    "driver": ("grove_core",),
}
"""Functions by what their name or file contains; the first that fits."""


PROFILED = ((2, 32 * 1024, "strict"), (8, 1024, "strict"), (8, 1024, "none"), (8, 32 * 1024, "none"))


def where(cases: Sequence[tuple[int, int, str]], scale: float) -> None:
    """Print what a profile says."""
    print(
        "\nwhere the time goes, in % by cProfile, which makes Python look slower beside C than it is:\n"
    )
    print(f"{'':>24}" + "".join(f"{part:>18}" for part in [*PARTS, "other"]))
    for nodes, size, signing in cases:
        profile = cProfile.Profile()
        asyncio.run(village(nodes, signing, flows(nodes, size, scale), profile=profile))
        spent: Counter[str] = Counter()
        stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]]
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        for (file, _, name), (_, _, own, _, _) in stats.items():
            fits = (part for part, words in PARTS.items() if any(w in file or w in name for w in words))
            spent[next(fits, "other")] += own  # type: ignore[assignment]
        total = sum(spent.values())
        row = "".join(f"{spent[part] / total * 100:>18.0f}" for part in [*PARTS, "other"])
        print(f"{nodes:>2} nodes {size:>5} B {signing:>6} {row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--sides", nargs="+", choices=SATURATED, default=tuple(SATURATED))
    parser.add_argument("--keep", type=Path, help="a file of figures, added to; --rounds 0 prints them")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    parser.add_argument("--apart", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        print(json.dumps(asyncio.run(village(*json.loads(given.ours)))))
        return
    if given.apart:
        print(json.dumps(villages_apart(*json.loads(given.apart))))
        return
    figures = Figures(given.keep)
    asyncio.run(compare(figures, given.rounds, given.scale, given.nodes, given.sides))
    tables(figures, given.nodes)
    where(PROFILED, given.scale)


if __name__ == "__main__":
    main()
