"""GossipSub on real nodes, beside js-libp2p's: processor time of a delivery, deliveries a second, delays.

    python benchmarks/gossip.py [--rounds 5] [--scale 1.0] [--quick]

All nodes of one side live in one process and are connected all to all over TCP, Noise and yamux on
loopback. At saturation every node publishes in turn, with AT_ONCE messages at a time not yet heard by
everybody. A loss of ours ends the run with an error; js's are counted. A delivery is one message at one
of the others. Each measure has a process of its own; the sides take turns in a shuffled order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
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
"""Deliveries of one measure, by size; a third of it goes before, unmeasured, to warm up."""
AT_ONCE = {100: 64, 1024: 64, 32 * 1024: 8}
PACE = 10.0  # ms between messages where delays are measured: 100 a second
PACED = 500
PATIENCE = 300.0  # s for one measure


def flows(nodes: int, size: int, scale: float) -> list[dict[str, Any]]:
    """What is asked of a village in one measure: to warm up, and then in earnest."""
    count = max(int(DELIVERIES[size] * scale) // (nodes - 1), 30)
    flow = {"size": size, "atOnce": AT_ONCE[size]}
    return [flow | {"count": max(count // 3, 20)}, flow | {"count": count}]


async def ours(nodes: int, signing: str, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measure in a process of its own."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--ours", json.dumps([nodes, signing, asked]),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        told, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"our village of {nodes} ended with {child.returncode}")
    found: list[dict[str, Any]] = json.loads(told)
    return found


async def theirs(nodes: int, signing: str, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    js = await asyncio.to_thread(
        lambda: JsVillage(nodes=nodes, signing=signing, listen=[LISTEN["tcp"]], observe=False)
    )
    try:
        await js.do("connect", timeout=PATIENCE)
        await js.do("subscribe", topic=TOPIC)
        mesh = min(nodes - 1, 4)
        with contextlib.suppress(TimeoutError):  # of 20 js nodes some do not hear of all subscribers
            await js.do("settle", topic=TOPIC, subscribers=nodes - 1, mesh=mesh, timeout=10.0)
        return [await js.do("flow", topic=TOPIC, timeout=PATIENCE, **flow) for flow in asked]
    finally:
        await asyncio.to_thread(js.close)


async def village(nodes: int, signing: str, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """So many nodes of ours in this process, and what came of the flows."""
    settings = {**SETTINGS, "node.listen": [LISTEN["tcp"]], "plugins.gossipsub.signing": signing}
    del settings["plugins.gossipsub.scores"]  # js scores nobody without parameters for the topic either
    made = Village()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grove-")))
        for number in range(nodes):
            identity = Identity.generate()
            node = Node.from_profile(
                "super-peer", data=folder / str(number), set=settings, identity=identity
            )
            await stack.enter_async_context(node)
            made.members.append(Villager(node, made.changed))
        await made.connect()
        made.subscribe(TOPIC)
        await made.settle(TOPIC, subscribers=nodes - 1, mesh=min(nodes - 1, 4))
        return [await flow(made, run, **one) for run, one in enumerate(asked)]


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
        data = (number.to_bytes(4, "big") + run.to_bytes(4, "big")).ljust(size, b"\0")
        sent[number] = time.perf_counter()
        members[number % len(members)].node.broadcast.publish(TOPIC, data)

    def hear(member: Villager, event: Delivered) -> None:
        nonlocal done
        if event.author == member.node.peer or not event.hops:
            return
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

    async def listen(member: Villager, ready: asyncio.Event) -> None:
        async with member.node.watch(Delivered, limit=100_000) as events:
            ready.set()
            async for event in events:
                hear(member, event)  # type: ignore[arg-type]

    ready = [asyncio.Event() for _ in members]
    ears = [asyncio.create_task(listen(*pair)) for pair in zip(members, ready, strict=True)]
    for one in ready:
        await one.wait()
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
    told = {
        "ms": (time.perf_counter() - start) * 1e3,
        "cpu": (time.process_time() - cpu) * 1e6,
        "delays": delays,
        "lost": sum(left),
    }
    for ear in ears:
        ear.cancel()
    await asyncio.gather(*ears, return_exceptions=True)
    return told


def middle(values: list[float]) -> float:
    return statistics.median(values)


async def compare(rounds: int, scale: float, cases: list[tuple[int, int, str]]) -> None:
    """Print the tables."""
    sides: dict[str, Any] = {"grove": ours}
    try:
        await asyncio.to_thread(installed)
        sides["js"] = theirs
    except Missing as missing:
        print(f"without js-libp2p: {missing}", file=sys.stderr)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians of {rounds}\n")
    head = f"{'nodes':>5} {'bytes':>6} {'signed':>6}"
    print(f"{head} {'grove us':>9} {'js us':>9} {'ratio':>6} {'grove /s':>12} {'js /s':>9} {'lost':>10}")
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    jobs = [(side, case) for case in cases for side in sides]
    for _ in range(rounds):
        random.shuffle(jobs)
        for side, (nodes, size, signing) in jobs:
            told = await sides[side](nodes, signing, flows(nodes, size, scale))
            cells.setdefault((side, nodes, size, signing), []).append(told[-1])
            spent = f"{told[-1]['cpu'] / 1e6:.1f} s of processor time"
            print(f"{side}, {nodes} nodes, {size} B, {signing}: {spent}", file=sys.stderr)
    for nodes, size, signing in cases:
        count = flows(nodes, size, scale)[-1]["count"] * (nodes - 1)
        us, rate, lost = {}, {}, {}
        for side in sides:
            found = cells[side, nodes, size, signing]
            us[side] = middle([one["cpu"] / count for one in found])
            lost[side] = sum(one["lost"] for one in found)
            rate[side] = middle([count / one["ms"] * 1e3 for one in found])
        print(
            f"{nodes:>5} {size:>6} {signing == 'strict'!s:>6} {us['grove']:>9.0f} {us.get('js', 0):>9.0f}"
            f" {us['grove'] / us['js'] if 'js' in us else 0:>6.2f}"
            f" {rate['grove']:>12.0f} {rate.get('js', 0):>9.0f}"
            f" {lost['grove']:>4} : {lost.get('js', 0):>3}",
            flush=True,
        )
    print("\nus: processor time of a delivery. msg/s: deliveries at saturation. lost: of all rounds.\n")
    paced = {"size": 1024, "atOnce": 1, "count": int(PACED * min(scale, 1)), "every": PACE}
    for side, measure in sides.items():
        halves, tails = [], []
        for _ in range(rounds):
            told = await measure(8, "strict", [paced | {"count": 50}, paced])
            delays = sorted(told[-1]["delays"])
            halves.append(delays[len(delays) // 2])
            tails.append(delays[int(len(delays) * 0.99)])
        print(
            f"{side:>5}: 8 nodes, 1 KiB, signed, 100 messages/s: delay p50 {middle(halves):.2f} ms,"
            f" p99 {middle(tails):.2f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true", help="8 nodes, 1 KiB only")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        print(json.dumps(asyncio.run(village(*json.loads(given.ours)))))
        return
    cases = [(n, size, s) for n in NODES for size in SIZES for s in SIGNING]
    if given.quick:
        cases = [(8, 1024, s) for s in SIGNING]
    asyncio.run(compare(given.rounds, given.scale, cases))


if __name__ == "__main__":
    main()
