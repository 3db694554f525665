"""Single runs of a comparison looked at closely: run again, with somebody watching.

    first_event   the first event in which a run and its repetition differ, in words
    worst         a space-time diagram of each side's worst message in its worst seed
    keep          `--trace seed=7`: everything about a run in a folder of its own

A run that is watched is the same run: watching moves nothing (`tests/…/test_compare_traces.py`).

    traces/SIDE-NODES-SEED/events.csv       every event that a machine told, as its digest covers them
                           run.replay.json  for `grove replay` and `grove sim shrink`
                           *.svg            its worst message, delivery, hops, overlay (small worlds) …
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from grove_core.drive.virtual import VirtualNode, World
from grove_core.events import Delivered
from grove_core.machine import Event
from grove_lab.compare.headline import short_names
from grove_lab.compare.judging import Table
from grove_lab.compare.manifest import Ran
from grove_lab.compare.pairing import Outcome, Side, Study, assembled
from grove_lab.compare.runs import slug
from grove_lab.flights import Flights, Over
from grove_lab.pictures import draw
from grove_lab.pictures.spacetime import MOST, spacetime
from grove_lab.replay import record
from grove_lab.replay import write as write_recording
from grove_lab.run import Progress, Run, run
from grove_lab.stage import PRINTED, Stage

PATIENCE = 60.0
"""Processor seconds that a run may have taken to be run again unasked, for its picture."""

AFTER = 0.02
"""Share of a message's time that is shown beyond its end."""


# The first event that differs.


def first_difference(then: bytes, now: bytes) -> int | None:
    """The number, from 0, of the first event whose prints differ; None if there is none."""
    if then == now:
        return None
    low, high = 0, min(len(then), len(now)) // 2  # the first `low` are equal
    while low < high:
        middle = (low + high + 1) // 2
        if then[: 2 * middle] == now[: 2 * middle]:
            low = middle
        else:
            high = middle - 1
    return low


def first_event(study: Study, then: Ran, prints: bytes, now: Outcome) -> str | None:
    """Where a run and its repetition part, by the single event; None if the prints do not tell.

    prints: of the run as it was. It is run once more, up to that event.
    """
    at = first_difference(prints, now.prints)
    if at is None or at >= PRINTED:
        return None
    seen = _events(study, now, at)
    before, here = seen.get(at - 1), seen.get(at)
    who = f"{then.side}, {then.nodes:,} nodes, seed {then.seed}"
    if at >= len(prints) // 2:
        parts = f"then there was no event {at + 1:,}; now it is {here}"
    elif here is None:
        parts = f"then there was an event {at + 1:,}; now there is none"
    else:
        parts = f"the first that differs is event {at + 1:,}, which now is {here}"
    return f"{who}: {parts}; " + (f"the same before, last {before}" if before else "nothing before it")


def _events(study: Study, one: Outcome, last: int) -> dict[int, str]:
    """The event of that number of a run, and the one before, in words."""
    found: dict[int, str] = {}
    number = -1

    def watch(stage: Stage) -> None:
        world = stage.world

        def hear(node: VirtualNode, event: Event) -> None:
            nonlocal number
            number += 1
            if number >= last - 1:
                what = " ".join((type(event).__name__, *told(world, event)))
                at = f"t = {world.now:.6f} s, {world.now - stage.begins:+.6f} s after settling"
                found[number] = f"{what} at node {node.index} ({at})"
                if number == last:
                    raise Over

        world.sinks.insert(0, hear)

    again(study, one, watch=watch)
    return found


def told(world: World, event: Event) -> list[str]:
    """The fields of an event as ``name=value``; peers by number, bytes in hex, long ones shortened."""
    found = []
    for name in event.__struct_fields__:
        value: Any = getattr(event, name)
        if isinstance(value, bytes):
            node = world.nodes.get(value)  # type: ignore[call-overload]
            if node is not None:
                value = f"node {node.index}"
            else:
                value = value.hex() if len(value) <= 32 else f"{value[:16].hex()}…({len(value)} B)"
        found.append(f"{name}={value}")
    return found


# The worst message.


def worst(study: Study, outcomes: Sequence[Outcome], tables: Sequence[Table]) -> dict[str, str]:
    """A diagram for each side of each table, by the figure's name, where it takes little time."""
    found: dict[str, str] = {}
    drawn: set[tuple[str, int]] = set()
    controls = [side.label for side in study.sides if side.shift]
    for number, table in enumerate(tables, start=1):
        if table.b in controls:
            continue
        tail = f"-{number}" if len(tables) > 1 else ""
        for letter, side in (("a", table.a), ("b", table.b)):
            runs = [
                one
                for one in outcomes
                if (one.side, one.nodes) == (side, table.nodes) and one.worst and not one.violation
            ]
            if not runs or (side, table.nodes) in drawn:
                continue
            drawn.add((side, table.nodes))
            one = max(runs, key=lambda one: one.worst.last if one.worst else 0.0)
            if one.cpu_s <= PATIENCE:
                svg = diagram(study, one, short_names(table.a, table.b)[letter == "b"])
                if svg is not None:
                    found[f"spacetime_{letter}{tail}"] = svg
    return found


def diagram(study: Study, one: Outcome, name: str = "") -> str | None:
    """How the worst message of a run came to its last receiver; None if nothing was delivered."""
    message = one.worst
    if message is None:
        return None
    begins = study.world(one.nodes).begins
    since = begins + message.published
    until = since + message.last * (1 + AFTER) + 1e-6
    flights = Flights(since, until)
    again(study, one, watch=flights.watch)
    way = flights.way(bytes.fromhex(message.id), message.sender)
    if way is None:
        return None
    nodes = [node for node, _ in way.nodes]
    if one.nodes <= MOST:
        nodes += [node for node in range(one.nodes) if node not in nodes]
    if len(nodes) > MOST:  # the last links of a long way
        nodes = nodes[-MOST:]
    marks = {message.sender: "author", way.nodes[-1][0]: "last"}
    hops = len(way.nodes) - 1
    return spacetime(
        f"The worst message of {name or one.side}",
        f"{one.nodes:,} nodes · seed {one.seed} · published {message.published:.2f} s after settling\n"
        f"{1e3 * message.last:,.1f} ms and {hops} link{'s' if hops != 1 else ''} to the last",
        nodes,
        flights.among(nodes),
        since=since,
        until=until,
        way=way,
        marks=marks,
    )


# Everything about a run.


def keep(study: Study, one: Outcome, folder: Path, progress: Progress | None = None) -> Path:
    """Run it again and write all there is to see below a folder; returns where."""
    where = folder / f"{slug(one.side)}-{one.nodes}-{one.seed}"
    where.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context((where / "events.csv").open("w", newline="", encoding="utf-8"))
        rows = csv.writer(file)
        rows.writerow(("time", "node", "event", "what"))

        def watch(stage: Stage) -> None:
            world = stage.world

            def hear(node: VirtualNode, event: Event) -> None:
                what = " ".join(told(world, _light(event)))
                rows.writerow((repr(world.now), node.index, type(event).__name__, what))

            world.sinks.insert(0, hear)

        whole = again(study, one, watch=watch, progress=progress)
    side = _side(study, one)
    write_recording(record(study.world(one.nodes), side.choice, whole), where / "run.replay.json")
    draw(whole, where)
    svg = diagram(study, one)
    if svg is not None:
        (where / "spacetime.svg").write_text(svg, encoding="utf-8")
    return where


def _light(event: Event) -> Event:
    """Without the payload, which is only noise in a log."""
    return msgspec.structs.replace(event, data=b"") if type(event) is Delivered else event


def again(study: Study, one: Outcome, *, watch: Any, progress: Progress | None = None) -> Run:
    """Run one of a study's runs again, watched."""
    side = _side(study, one)
    parts = assembled(study, one.nodes, side)
    world = study.world(one.nodes)
    return run(world, seed=one.seed + side.shift, parts=parts, watch=watch, progress=progress)


def _side(study: Study, one: Outcome) -> Side:
    return next(side for side in study.sides if side.label == one.side)
