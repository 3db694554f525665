"""`--real`: the same scenario on 5 to 20 real nodes, each a process on this machine, over loopback.

Every node is `grove up` with the side's choice, driven and heard through its local door, as any
program would; nothing here looks inside one. Sides take turns in the order A B B A, so that a machine
that warms up or slows down favours nobody. The schedule of publications and crashes is the seed's and
the same for each side; what the kernel makes of it is not, so intervals are wider, results carry the
label "live", and no manifest of them can be reproduced.

Of a scenario are taken: workloads that publish, crash faults (SIGKILL), duration and [roles] and
[plugins]. Latency, loss and bandwidth are loopback's. Whatever else would change the world is refused.

Bytes are those that transports gave to the system from the first publication to the last look, Noise,
yamux and QUIC included, TCP, UDP and IP headers not; in a simulated world they are those of messages
and an overhead, so the two kinds of figures are not one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from grove_core.cli.door import open_door
from grove_core.cli.show import toml, toml_key
from grove_core.cli.village import Home
from grove_core.errors import GroveError
from grove_lab.choice import parse_choice
from grove_lab.compare import headline, pairing
from grove_lab.compare.pairing import GRID, Cell, Executor, Outcome, Side, Study, Tell, Working
from grove_lab.metrics import Message, quantile, recovery
from grove_lab.scenario import Scenario
from grove_lab.streams import stream
from grove_lab.workload import payload

FEWEST, MOST, USUAL = 5, 20, 8
"""Nodes of a live world: fewer show no protocol, more and the machine is what is measured."""

SETS = (
    "duration=10", "join.settle=2", "measure.deadline=5", "measure.primary=latency_p50_ms",
)  # fmt: skip
"""Weaker than --set: real seconds are dear, and few nodes give too few deliveries for a p99."""

PROFILE = "residential"
"""What nodes run where neither the choice nor the scenario names a profile that has transports."""

LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}
"""Transport -> where its nodes listen. Peers know no other address, so they speak no other transport."""

GATHER = 30.0  # s within which the nodes of a world must have found each other
LOOK = 0.1  # s between two looks at that

HONESTY = (
    "Real processes on one machine, over loopback: no distance, no loss, no router between them, and "
    "all share its processors, so latencies are those of the software, and of the local door through "
    "which they were seen. Runs cannot be repeated exactly."
)


def plan(
    scenario: str | Path,
    choices: Sequence[str],
    *,
    seeds: Sequence[int] = (),
    sizes: Sequence[int] = (),
    sets: Sequence[str] = (),
    is_aa: bool = False,
) -> Study:
    """As `pairing.plan`; raises GroveError for what cannot be done with real nodes."""
    sizes = tuple(sizes) or (USUAL,)
    if min(sizes) < FEWEST or max(sizes) > MOST:
        raise GroveError(f"--real takes {FEWEST} to {MOST} nodes; {', '.join(map(str, sizes))} asked for")
    study = pairing.plan(scenario, choices, seeds=seeds, sizes=sizes, sets=(*SETS, *sets), is_aa=is_aa)
    for nodes in sizes:
        _possible(study.world(nodes))
    return study


def regime(scenario: Scenario, seeds: int, *, transport: str = "tcp") -> str:
    """Where a live result holds: the words of `headline.regime` that apply."""
    links = f"processes over loopback, {transport.upper()}"
    return headline.regime(scenario, seeds, links=links, time="of real time")


def _possible(scenario: Scenario) -> None:
    wrong = [
        f"[faults.{name}] {one.kind}: real nodes can only crash"
        for name, one in scenario.faults.items()
        if one.kind != "crash" or one.lasts or one.classes
    ]
    wrong += [
        f"[workloads.{name}] {one.kind}: real nodes only publish"
        for name, one in scenario.workloads.items()
        if one.kind != "publish"
    ]
    if scenario.classes:
        wrong.append("[classes]: real nodes are all of one kind")
    if wrong:
        raise GroveError(f"--real cannot play {scenario.name}: {'; '.join(wrong)}")


def over(transport: str) -> Executor:
    """An executor whose nodes speak one of `LISTEN`: a world after the other, in each side after side."""

    def executor(cells: Sequence[Cell], tell: Tell) -> Working:
        for cell in cells:
            sides = list(cell.study.sides)
            found: dict[str, Outcome] = {}
            for done, side in enumerate(reversed(sides) if cell.turn % 2 else sides):
                tell(cell, (done + 0.01) / len(sides))
                found[side.label] = asyncio.run(_run(cell, side, transport))
            yield cell, [found[side.label] for side in sides]

    return executor


class Seat(Home):
    """One node's process, followed without asking it anything while it works."""

    async def follow(self, topics: Sequence[str], heard: Callable[[Seat, dict[str, Any]], None]) -> None:
        self.door = await self._stay.enter_async_context(open_door(self.folder))
        events = await self._stay.enter_async_context(self.door.subscribe(*topics))

        async def listen() -> None:
            with contextlib.suppress(GroveError):  # a killed node's door ends
                while True:
                    event = await events.next()
                    if event["event"] == "delivered":
                        heard(self, event)

        self._tasks.append(asyncio.create_task(listen()))

    async def near(self) -> list[str]:
        answer = await self.door.request("members")
        found: list[str] = answer["neighbors"]
        return found

    async def sent(self) -> tuple[int, int]:
        """(messages of protocols, bytes of transports) that left so far."""
        counters = (await self.door.request("counters"))["counters"]
        messages, size = (
            sum(count for name, count in counters.items() if name.startswith(head))
            for head in ("sent.", "bytes.")
        )
        return messages, size

    @property
    def cpu_s(self) -> float | None:
        """Processor seconds used so far, where the system tells."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class World:
    """The nodes of one run, what they published and what they heard. Times: s after settling."""

    def __init__(self, scenario: Scenario, seed: int, choice: str, folder: Path, transport: str) -> None:
        self.scenario = scenario
        self.seed = seed
        self.folder = folder
        self.args = _arguments(scenario, choice, folder, transport)
        self.seats = [Seat(f"node {index}", folder / str(index)) for index in range(scenario.nodes)]
        self.began = math.inf
        self.published: dict[str, tuple[str, float, int, int]] = {}  # workload, when, sender, size
        self.heard: dict[str, dict[str, tuple[float, int]]] = {}  # by message, by seat: when, hops
        self.faults: list[tuple[float, str]] = []
        self.killed: dict[int, float] = {}
        self.sent = 0
        self.bytes: list[int] = []
        """Of each node that lived to the end."""
        self.seconds = 0.0
        """That messages and bytes were counted."""
        self.cpu = 0.0

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    async def gather(self) -> None:
        """Start all, the first first, and wait until they hang together."""
        first, *others = self.seats
        await first.start(self.folder / "grove.toml", *self.args)
        contact = first.addrs[0]
        if "/p2p/" not in contact:
            contact = f"{contact}/p2p/{first.peer}"
        for at in range(0, len(others), 4):  # a few at a time: starting is the machine's hardest work
            some = others[at : at + 4]
            await asyncio.gather(
                *(seat.start(self.folder / "grove.toml", *self.args, "--peer", contact) for seat in some)
            )
        topics = list(dict.fromkeys(one.topic for one in self.scenario.workloads.values()))
        await asyncio.gather(*(seat.follow(topics, self._hear) for seat in self.seats))
        try:
            async with asyncio.timeout(GATHER):
                while not await self._is_one():
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise GroveError(f"the nodes did not find each other within {GATHER:g} s") from None
        await asyncio.sleep(self.scenario.join.settle)

    async def _is_one(self) -> bool:
        views = {seat.peer: await seat.near() for seat in self.seats}
        found: set[str] = set()
        todo = [self.seats[0].peer]
        while todo:
            peer = todo.pop()
            if peer in views and peer not in found:
                found.add(peer)
                todo += views[peer]
        return len(found) == len(views)

    async def live(self) -> None:
        """Publish, break and wait, as the seed says."""
        sent = [await seat.sent() for seat in self.seats]
        cpu = [seat.cpu_s for seat in self.seats]
        self.began = time.monotonic()
        for at, act in sorted((*self._publications(), *self._crashes()), key=lambda pair: pair[0]):
            await asyncio.sleep(max(0.0, at - self.now))
            await act()
        await asyncio.sleep(max(0.0, self.scenario.duration - self.now))
        bound = self.now + self.scenario.measure.deadline
        while self.now < bound and not all(one.delivered == one.expected for one in self.messages()):
            await asyncio.sleep(LOOK)
        alive = [index for index in range(len(self.seats)) if index not in self.killed]
        for index in alive:
            messages, size = await self.seats[index].sent()
            self.sent += messages - sent[index][0]
            self.bytes.append(size - sent[index][1])
        self.seconds = self.now
        used = [(self.seats[index].cpu_s, cpu[index]) for index in alive]
        self.cpu = sum(after - before for after, before in used if after and before is not None)

    def _publications(self) -> list[tuple[float, Callable[[], Any]]]:
        found: list[tuple[float, Callable[[], Any]]] = []
        for name, one in self.scenario.workloads.items():
            rng = stream(self.seed, "publish", name)
            fixed = int(rng.random() * len(self.seats))
            at, number = one.start, 0
            # Regular times are counted, not added up: 10 × 0.1 s must not fall short of 1 s.
            while at < min(one.stop or math.inf, self.scenario.duration):
                if one.count and number >= one.count:
                    break
                index = {"one": fixed, "all": number % len(self.seats)}.get(
                    one.senders, int(rng.random() * len(self.seats))
                )
                size = rng.randint(one.size, one.size_high) if one.size_high else one.size

                async def say(
                    name: str = name, topic: str = one.topic, index: int = index, size: int = size
                ) -> None:
                    living = [at for at in range(len(self.seats)) if at not in self.killed]
                    sender = index if index in living else living[index % len(living)]
                    data = payload(len(self.published), size)
                    at = self.now
                    seat = self.seats[sender]
                    answer = await seat.door.request("publish", {"topic": topic, "data": data})
                    self.published[str(answer["id"])] = (name, at, sender, size)

                found.append((at, say))
                number += 1
                if one.arrivals == "poisson":
                    at += rng.expovariate(one.rate)
                else:
                    at = one.start + number / one.rate
        return found

    def _crashes(self) -> list[tuple[float, Callable[[], Any]]]:
        found: list[tuple[float, Callable[[], Any]]] = []
        for name, fault in self.scenario.faults.items():
            rng = stream(self.seed, "fault", name)
            count = round(fault.share * len(self.seats))
            doomed = list(fault.nodes) or rng.sample(range(len(self.seats)), count)

            async def kill(name: str = name, doomed: list[int] = doomed) -> None:
                self.faults.append((self.now, f"{name}: {len(doomed)} nodes are killed"))
                for index in doomed:
                    self.killed.setdefault(index, self.now)
                await asyncio.gather(*(self.seats[index].kill() for index in doomed))

            found.append((fault.at, kill))
        return found

    def _hear(self, seat: Seat, event: dict[str, Any]) -> None:
        # May come before the door has told the publisher its id.
        reached = self.heard.setdefault(event["id"], {})
        reached.setdefault(seat.name, (self.now, event.get("hops", 0)))

    def messages(self) -> list[Message]:
        """Every publication and what became of it; killed nodes are not expected to have it."""
        found = []
        for message, (workload, at, sender, size) in self.published.items():
            reached = self.heard.get(message, {})
            there = [
                seat.name
                for index, seat in enumerate(self.seats)
                if index != sender and index not in self.killed
            ]
            got = [reached[name] for name in there if name in reached]
            found.append(
                Message(
                    id=message,
                    workload=workload,
                    published=at,
                    sender=sender,
                    size=size,
                    expected=len(there),
                    delivered=len(got),
                    last=max((when - at for when, _ in got), default=0.0),
                    hops=max((hops for _, hops in got), default=0),
                )
            )
        return found

    def arrivals(self) -> list[tuple[float, int]]:
        """(latency, hops) of each delivery elsewhere."""
        found = []
        for message, (_, at, sender, _) in self.published.items():
            own = self.seats[sender].name
            reached = self.heard.get(message, {})
            found += [(when - at, hops) for name, (when, hops) in reached.items() if name != own]
        return found


async def _run(cell: Cell, side: Side, transport: str) -> Outcome:
    """One side in one world, from the first process to the last."""
    scenario = cell.study.world(cell.nodes)
    folder = Path(tempfile.mkdtemp(prefix="grove-live-"))
    began = time.monotonic()
    violation = ""
    try:
        world = World(scenario, cell.seed + side.shift, side.choice, folder, transport)
        try:
            await world.gather()
            await world.live()
            degrees = Counter(
                [len(await s.near()) for i, s in enumerate(world.seats) if i not in world.killed]
            )
        except GroveError as error:
            violation, degrees = f"the run failed: {error}", Counter()
        finally:
            await asyncio.gather(*(seat.stop() for seat in world.seats), return_exceptions=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    arrivals = world.arrivals()
    ascending = sorted(latency for latency, _ in arrivals)
    return Outcome(
        side=side.label,
        nodes=cell.nodes,
        seed=cell.seed,
        metrics={} if violation else _metrics(world, ascending),
        digest="",
        events=len(arrivals),
        deliveries=len(arrivals),
        quantiles=[quantile(ascending, i / GRID) for i in range(GRID + 1)] if ascending else [],
        violation=violation,
        degrees=dict(sorted(degrees.items())),
        hops=dict(sorted(Counter(hops for _, hops in arrivals).items())),
        faults=world.faults,
        cpu_s=world.cpu,
        wall_s=time.monotonic() - began,
    )


def _metrics(world: World, ascending: Sequence[float]) -> dict[str, float]:
    messages = [one for one in world.messages() if one.expected]
    found = {"published": float(len(world.published))}
    if not messages:
        return found
    found["delivery_ratio"] = sum(m.delivered for m in messages) / sum(m.expected for m in messages)
    lasts = sorted(one.last for one in messages if one.delivered)
    if lasts:
        found["latency_last_ms"] = 1e3 * quantile(lasts, 0.5)
    if ascending:
        for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            found[f"latency_{name}_ms"] = 1e3 * quantile(ascending, q)
        found["messages_per_delivery"] = world.sent / len(ascending)
        if world.cpu:
            found["cpu_ms_per_delivery"] = 1e3 * world.cpu / len(ascending)
    if world.bytes and world.seconds > 0.0:
        found["bytes_up_per_node_s"] = sum(world.bytes) / len(world.bytes) / world.seconds
        found["bytes_up_busiest_node_s"] = max(world.bytes) / world.seconds
    healed = recovery(messages, [at for at, _ in world.faults], world.scenario.measure.recovered)
    if healed is not None:
        found["recovery_s"] = healed
    return found


def _arguments(scenario: Scenario, choice: str, folder: Path, transport: str) -> tuple[str, ...]:
    """`grove up` options for a side; the scenario's own protocols go into its configuration file."""
    profile, sets = parse_choice(choice)
    profile = profile or (scenario.profile if scenario.profile != "simulation" else PROFILE)
    lines = []
    for name in ("roles", "plugins"):
        for table, values in _tables(name, scenario.protocols.get(name, {})):
            lines += [f"[{table}]", *(f"{toml_key(key)} = {toml(value)}" for key, value in values)]
    (folder / "grove.toml").write_text("\n".join(lines) + "\n")
    options = ["--profile", profile, "--listen", LISTEN[transport]]
    for one in sets:
        options += ["--set", one]
    return tuple(options)


def _tables(name: str, tree: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    values = [(key, value) for key, value in tree.items() if not isinstance(value, dict)]
    if values:
        yield name, values
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _tables(f"{name}.{toml_key(key)}", value)
