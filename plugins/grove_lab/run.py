"""One run of a scenario under one seed: build the world, let it happen, say what was measured.

    run(load("village-1k"), seed=1, parts=parts_for("broadcast=flood", scenario)).metrics

The world is moved in slices of `measure.series` seconds; between two slices progress is told, views
are looked at and a point of the time series is written. A slice adds no event to the world, so
none of this can move it.

Invariants:
1. Equal scenario, seed, parts and Grove version give an equal `Run.digest`, on any CPython, whatever
   the hash seed, the process, and whether or not progress is shown.
2. What differs between two runs of one seed with different parts is what the parts did: nodes,
   links, faults and publications are the same, at the same times.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from grove_core.drive.virtual import SimulationError
from grove_core.specs import Part
from grove_lab.checkers import Violated, Violation
from grove_lab.choice import parts_for
from grove_lab.metrics import Message, Point, Way
from grove_lab.scenario import Scenario
from grove_lab.stage import SMALL, Stage

Progress = Callable[[float, float, int], None]
"""Told between slices: (virtual seconds done, virtual seconds in all, events so far)."""


class Run(msgspec.Struct, kw_only=True):
    """What one run gave. Plain data: it pickles, and encodes as JSON.

    metrics: name -> value; what was not measured or cannot be said is absent. Units are in the
        names or in `grove_lab.metrics.UNITS`.
    samples: seconds from publishing to each delivery elsewhere, in order of delivery, at most
        `measure.samples` of them (then a uniform sample).
    digest: names this history: everything emitted, by whom and when, and how many events it took.
        checkpoints: (virtual time, events, digest so far) per slice, to find where two runs part.
    prints: of each emitted event, to find the first in which two runs differ (`stage.Log`).
    trace: the digest of every single event, if it was asked for.
    """

    scenario: str
    seed: int
    nodes: int
    metrics: dict[str, float]
    samples: list[float]
    digest: str
    events: int
    cpu_s: float
    virtual_s: float
    checkpoints: list[tuple[float, int, str]] = []
    prints: bytes = b""
    trace: str = ""
    violation: Violation | None = None
    messages: list[Message] = []
    series: list[Point] = []
    degrees: dict[int, int] = {}
    """Neighbours -> nodes that have so many, at the end."""
    hops: dict[int, int] = {}
    """Links crossed -> deliveries."""
    faults: list[tuple[float, str]] = []
    """(seconds after settling, what happened)."""
    regions: dict[str, list[float]] = {}
    """Region -> seconds to delivery there at `metrics.BOX`, in order; empty without regions."""
    traffic: dict[str, tuple[int, int]] = {}
    """Message type -> (sent, bytes), after settling."""
    overlay: tuple[list[int], list[tuple[int, int, str]]] | None = None
    """The living and their links at the end, with what broadcast uses each for; of small worlds."""
    way: Way | None = None
    """How the last message that was followed to its end went; of small worlds."""


def run(
    scenario: Scenario,
    *,
    seed: int,
    parts: Mapping[str, tuple[Part, ...]] | None = None,
    trace: bool = False,
    progress: Progress | None = None,
    watch: Callable[[Stage], None] | None = None,
) -> Run:
    """Run a scenario once, to its end or to the first violated invariant (`Run.violation`).

    parts: class name -> what its nodes run; the scenario's own if None. trace: also digest every
    event, at a third of the speed. watch: given the stage before anything moves, to look in.
    """
    begun = time.process_time()
    stage = Stage(scenario, seed, parts_for("", scenario) if parts is None else parts, trace=trace)
    if watch is not None:
        watch(stage)
    violation = None
    checkpoints = []
    try:
        while stage.world.now < scenario.ends:
            stage.advance()
            checkpoints.append((stage.world.now, stage.world.events, stage.log.digest()))
            if progress is not None:
                progress(stage.world.now, scenario.ends, stage.world.events)
        stage.finish()
    except Violated as error:
        violation = error.violation
    except SimulationError as error:
        cause = error.__cause__
        violation = cause.violation if isinstance(cause, Violated) else stage.raised(error)
    measured = stage.measured()
    name = hashlib.blake2b(digest_size=16)
    name.update(stage.log.digest().encode())
    name.update(f"{stage.world.events} {violation}".encode())
    return Run(
        scenario=scenario.name,
        seed=seed,
        nodes=scenario.nodes,
        metrics=measured,
        samples=list(stage.deliveries.samples),
        digest=name.hexdigest(),
        events=stage.world.events,
        cpu_s=time.process_time() - begun,
        virtual_s=stage.world.now,
        checkpoints=checkpoints,
        prints=stage.log.prints(),
        trace=stage.world.digest() if trace else "",
        violation=violation,
        messages=stage.deliveries.messages(),
        series=stage.series,
        degrees=stage.degrees,
        hops=stage.deliveries.hop_counts(),
        regions=stage.deliveries.by_region(),
        faults=stage.happened,
        traffic=stage.meter.by_type() if stage.meter else {},
        overlay=stage.overlay() if scenario.nodes <= SMALL else None,
        way=stage.deliveries.way,
    )


def outcome(one: Run) -> dict[str, Any]:
    """A run without its bulk, for JSON on a terminal."""
    found: dict[str, Any] = msgspec.to_builtins(one)
    for bulky in ("samples", "checkpoints", "prints", "messages", "series", "overlay", "way"):
        del found[bulky]
    return found
