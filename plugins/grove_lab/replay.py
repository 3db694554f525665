"""A failure in a file, and the same failure again: what `grove replay` reads and shows.

The file is small JSON: the scenario as it was in force, the choice of protocols, the seed and what
was violated. Running it again gives the same history, so the moment can be looked at with as much
detail as one likes: every message, timer and link around it, a column per node in small worlds, or a
space-time diagram.
"""

from __future__ import annotations

import shlex
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from grove_core.drive.virtual import VirtualNode, World
from grove_core.errors import GroveError
from grove_core.machine import Event
from grove_core.specs import Part
from grove_lab.checkers import Violation
from grove_lab.choice import parts_for
from grove_lab.flights import Flights
from grove_lab.pictures.spacetime import MOST, spacetime
from grove_lab.run import Progress, Run, run
from grove_lab.scenario import Scenario
from grove_lab.stage import Stage

SCHEMA = "grove.replay"
COLUMNS = 6
"""Worlds of so many nodes are told with a column for each."""

Parts = Mapping[str, tuple[Part, ...]]


class Recording(msgspec.Struct, kw_only=True):
    """A run that can be had again. choice: as `grove_lab.choice.parts_for` takes it."""

    schema: str = SCHEMA
    version: int = 1
    scenario: Scenario
    choice: str = ""
    seed: int
    digest: str = ""
    events: int = 0
    virtual_s: float = 0.0
    violation: Violation | None = None


class NotARecording(GroveError):
    """A file that `grove replay` cannot read; the text says why."""

    exit_code = 2


def record(scenario: Scenario, choice: str, one: Run) -> Recording:
    """What has to be kept of a run to have it again."""
    if choice.endswith(".toml"):
        choice = str(Path(choice).absolute())
    return Recording(
        scenario=scenario,
        choice=choice,
        seed=one.seed,
        digest=one.digest,
        events=one.events,
        virtual_s=one.virtual_s,
        violation=one.violation,
    )


def write(recording: Recording, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(recording)) + b"\n")


def read(path: Path) -> Recording:
    """Raises NotARecording."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Recording)
    except OSError as error:
        raise NotARecording(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecording(
            f"{path}: not a recording: {error}; `grove sim run --trace FILE` writes one"
        ) from None
    if found.schema != SCHEMA or found.version != 1:
        raise NotARecording(f"{path}: is {found.schema} {found.version}; this Grove reads {SCHEMA} 1")
    return found


def command(path: Path) -> str:
    """The one command that shows the failure again."""
    return f"grove replay {shlex.quote(str(path))}"


class Line(msgspec.Struct, frozen=True):
    """One thing that happened to one node. time: virtual seconds; node: index, -1 for the outside."""

    time: float
    node: int
    text: str


class Tale:
    """The last `lines` things that happened to some nodes (all if None), from a virtual time on."""

    def __init__(self, since: float, lines: int, nodes: frozenset[int] | None = None) -> None:
        self.since = since
        self.nodes = nodes
        self.lines: deque[Line] = deque(maxlen=lines)

    def watch(self, stage: Stage) -> None:
        """Attach to a stage before it moves."""
        world = stage.world
        # First of the sinks: what broke the rule is told too.
        world.sinks.insert(0, lambda node, event: self.emitted(world, node, event))
        before = world.witness

        def witness(now: float, act: Any, ctx: Any, a: Any, b: Any) -> None:
            if before is not None:
                before(now, act, ctx, a, b)
            if now >= self.since:
                told = told_of(world, act, ctx, a, b)
                if told is not None:
                    self.tell(now, *told)

        world.witness = witness

    def tell(self, time: float, node: int, text: str) -> None:
        if self.nodes is None or node in self.nodes or node < 0:
            self.lines.append(Line(time, node, text))

    def emitted(self, world: World, node: VirtualNode, event: Event) -> None:
        if world.now >= self.since:
            self.tell(world.now, node.index, f"* {type(event).__name__}{_what(world, event)}")


def told_of(world: World, act: Any, ctx: Any, a: Any, b: Any) -> tuple[int, str] | None:
    """One event of the driver in words, and whose it is; None for what nobody would miss."""
    kind = act.__name__
    number = _Numbers(world)
    if kind in ("arrive", "deliver"):
        state = "" if ctx.alive else "  (dead)"
        return ctx.node.index, f"< {number(a)} {type(b).__name__}{state}"
    if kind == "visited":
        return a.index, f"< {ctx.node.index} {type(b).__name__}"
    if kind == "fire":
        if ctx.alive and ctx.timers.get(a) == b:
            return ctx.node.index, f"timer {ctx.slot.name} {_key(world, a)}"
        return None
    if kind == "start":
        return a.index, "starts"
    if kind == "up":
        return (ctx.node.index, f"link {number(a)} up") if ctx.alive and b.is_open else None
    if kind == "lost":
        return a.index, f"link {number(b[0])} lost"
    if kind == "dialled":
        return (ctx.node.index, f"dial {number(a)} {b or 'ok'}") if ctx.alive else None
    if kind == "ask":
        return b[0].index, f"? {ctx.node.index} {type(b[1]).__name__}"
    if kind == "answer":
        return ctx.node.index, f"! {b[0].node.index} {type(b[1]).__name__}"
    if kind == "outside" and getattr(a, "__name__", "") == "say":
        return -1, f"workload {a.__self__.name} speaks"
    return None


class _Numbers:
    """Peer id -> node number, for people."""

    def __init__(self, world: World) -> None:
        self.nodes = world.nodes

    def __call__(self, peer: Any) -> str:
        node = self.nodes.get(peer)
        return "?" if node is None else str(node.index)


def _key(world: World, key: Any) -> str:
    if isinstance(key, bytes):
        node = world.nodes.get(key)  # type: ignore[call-overload]
        return key.hex()[:8] if node is None else f"for {node.index}"
    return str(key)[:24]


def _what(world: World, event: Event) -> str:
    peer = getattr(event, "peer", None)
    if isinstance(peer, bytes) and peer in world.nodes:
        return f" {world.nodes[peer].index}"  # type: ignore[index]
    name = getattr(event, "id", None)
    if isinstance(name, bytes):
        return f" {name.hex()[:8]}"
    return ""


def replay(
    recording: Recording,
    *,
    parts: Parts | Callable[[Scenario], Parts] | None = None,
    before: float = 2.0,
    lines: int = 60,
    everybody: bool = False,
    progress: Progress | None = None,
    watch: Callable[[Stage], None] | None = None,
) -> tuple[Run, Tale]:
    """Run a recording again and tell what happened before its end.

    parts: instead of the recorded choice. before: seconds that are told. lines: how much, at most.
    everybody: tell of all nodes, not just of those the violation names. watch: looks on too.
    """
    scenario = recording.scenario
    if parts is None:
        parts = parts_for(recording.choice, scenario)
    elif callable(parts):
        parts = parts(scenario)
    violation = recording.violation
    moment = moment_of(recording)
    named = frozenset(violation.nodes) if violation and violation.nodes else None
    if everybody or scenario.nodes <= COLUMNS:
        named = None
    tale = Tale(moment - before, lines, named)

    def attach(stage: Stage) -> None:
        tale.watch(stage)
        if watch is not None:
            watch(stage)

    again = run(scenario, seed=recording.seed, parts=parts, progress=progress, watch=attach)
    return again, tale


def moment_of(recording: Recording) -> float:
    """When it was violated, or ended: virtual seconds."""
    return recording.violation.time if recording.violation else recording.virtual_s


def picture(recording: Recording, flights: Flights) -> str:
    """The time before the moment as a space-time diagram, as an SVG.

    The nodes that the violation names come first, then those that had most to do with them; where none
    is named, those that had most to do at all.
    """
    violation, until = recording.violation, moment_of(recording)
    named = list(violation.nodes[:MOST]) if violation else []
    between = flights.among(range(recording.scenario.nodes))
    busy: Counter[int] = Counter()
    for one in between:
        if not named or one.source in named or one.target in named:
            busy.update((one.source, one.target))
    others = sorted((node for node in busy if node not in named), key=lambda node: (-busy[node], node))
    nodes = sorted(named + others[: MOST - len(named)])
    shown = [one for one in between if one.source in nodes and one.target in nodes]
    subtitle = (
        f"{recording.scenario.name or 'scenario'} · {recording.scenario.nodes:,} nodes · "
        f"seed {recording.seed}\nfrom t = {flights.since:.3f} to {until:.3f} s"
    )
    return spacetime(
        violation.invariant if violation else "The end of the run",
        subtitle,
        nodes,
        shown,
        since=flights.since,
        until=until,
        marks=dict.fromkeys(named, "named"),
        end=violation.text[:90] if violation else "",
    )


def columns(lines: list[Line], nodes: list[int]) -> list[str]:
    """Lines as text: time, then a column per node where these are few, else node and text."""
    if not lines:
        return ["nothing happened"]
    few = len(nodes) <= COLUMNS
    width = 22
    found = []
    if few:
        found.append("time (s)    " + "".join(f"node {node}".ljust(width) for node in nodes).rstrip())
    for line in lines:
        if not few:
            who = "" if line.node < 0 else f"node {line.node}"
            found.append(f"{line.time:<12.6f}{who:<12}{line.text}".rstrip())
        elif line.node < 0:
            found.append(f"{line.time:<12.6f}-- {line.text}")
        else:
            at = nodes.index(line.node)
            found.append(f"{line.time:<12.6f}{'':{width * at}}{line.text[: width - 1]}".rstrip())
    return found
