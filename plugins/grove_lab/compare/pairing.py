"""Paired runs: what is compared, in which worlds, by which workers.

    study = plan("village-1k", ["broadcast=plumtree", "broadcast=gossipsub"], seeds=range(1, 21))
    outcomes = execute(study, jobs=2)

A `Cell` is one world, made by a seed and a size: every side runs in it, one after the other, in one
worker (common random numbers; `grove_lab.streams` keeps the world apart from the protocols' own draws).
Who comes first turns with the seed, so that a warm or a throttled processor favours nobody.
The A/A control is a side like the others, the baseline's parts under seeds that nobody else has.

Invariants:
1. Outcomes come in the order sizes, seeds, sides, whoever finished first.
2. An `Outcome`, but for its seconds of this machine, follows from the study alone.
3. A cell is plain data: a worker in another process or on another machine needs nothing but Grove
   and the plugins.
"""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from grove_core.errors import GroveError
from grove_lab.choice import Parts, parts_for
from grove_lab.metrics import Message, Point, quantile
from grove_lab.run import run
from grove_lab.scenario import Scenario, load, parse

MEASURED = ("invariants.delivery=0", "invariants.symmetric=false", "invariants.connected=false")
"""A comparison measures what these would stop at. Safety (exactly once, agreement) stays checked."""

GRID = 200
"""Quantiles kept of a run's latencies: 0, 1/GRID, … 1, exact."""

GLANCE = 0.25  # s between two looks at the workers


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared: a choice in the words of `grove_lab.choice`.

    label: what tables call it. text: the profile's own, where the choice is a file. shift: added to
    each seed; not 0 only in the A/A control.
    """

    label: str
    choice: str
    text: str = ""
    shift: int = 0


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what comes out. The first side is the baseline."""

    scenario: str
    scenario_text: str
    sets: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    sides: tuple[Side, ...]

    def world(self, nodes: int) -> Scenario:
        """The scenario at one size. Raises ConfigError."""
        return _scenario(self.scenario, self.scenario_text, (*self.sets, f"nodes={nodes}"))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All worlds, by size, then seed."""
        return tuple(
            Cell(study=self, nodes=nodes, seed=seed, turn=turn)
            for nodes in self.sizes
            for turn, seed in enumerate(self.seeds)
        )


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One world: every side of the study runs in it. turn: which side comes first."""

    study: Study
    nodes: int
    seed: int
    turn: int


class Outcome(msgspec.Struct, kw_only=True):
    """What one run gave, without its bulk.

    quantiles: seconds, `GRID` + 1 of the delivery latencies; empty without deliveries. violation: why
    the run was stopped; "" if it went to its end. worst: the message that took longest to its last
    receiver. prints, regions: as in `run.Run`. cpu_s and wall_s are of this machine; all else follows
    from the study.
    """

    side: str
    nodes: int
    seed: int
    metrics: dict[str, float]
    digest: str
    events: int
    deliveries: int
    checkpoints: list[tuple[float, int, str]] = []
    quantiles: list[float] = []
    violation: str = ""
    series: list[Point] = []
    degrees: dict[int, int] = {}
    hops: dict[int, int] = {}
    faults: list[tuple[float, str]] = []
    traffic: dict[str, tuple[int, int]] = {}
    regions: dict[str, list[float]] = {}
    worst: Message | None = None
    prints: bytes = b""
    cpu_s: float = 0.0
    wall_s: float = 0.0


Tell = Callable[[Cell, float], None]
"""Told that a share of a cell's work is done; 1.0 once, at its end."""

Working = Generator[tuple[Cell, list[Outcome]], None, None]

Executor = Callable[[Sequence[Cell], Tell], Working]
"""Runs cells and yields each with its outcomes as it is done, in any order. Closed, it ends the rest."""


class Interrupted(Exception):
    """The comparison was called off while a run was under way."""


# Planning.


def plan(
    scenario: str | Path,
    choices: Sequence[str],
    *,
    seeds: Sequence[int] = (),
    sizes: Sequence[int] = (),
    sets: Sequence[str] = (),
    is_aa: bool = False,
) -> Study:
    """A study of the choices, the first of them the baseline.

    seeds, sizes: the scenario's own if empty. Everything is checked here, so that no worker finds a
    mistake: raises ConfigError, PluginError, NoSuchScenario or, for no pair at all, GroveError.
    """
    sets = (*MEASURED, *sets)
    world = load(scenario, sets)
    seeds, sizes = tuple(seeds or world.seeds), tuple(sizes or (world.nodes,))
    if len(set(seeds)) < len(seeds):
        raise GroveError("a seed is given twice: equal worlds would count as two witnesses")
    sides = [_side(choice) for choice in choices]
    if is_aa:
        shift = max(seeds) - min(seeds) + 1
        sides.append(msgspec.structs.replace(sides[0], label=f"{sides[0].label} again", shift=shift))
    if len(sides) < 2:
        raise GroveError("nothing to compare with: name two choices, or one and --aa")
    labels = [side.label for side in sides]
    if len(set(labels)) < len(labels):
        raise GroveError(
            f"two sides are called the same ({', '.join(labels)}); one seed gives them one history. "
            "For the noise of the measurement give one of them and --aa"
        )
    study = Study(
        scenario=world.name,
        scenario_text=world.text,
        sets=tuple(sets),
        sizes=sizes,
        seeds=seeds,
        sides=tuple(sides),
    )
    for nodes in sizes:
        for side in sides:
            assembled(study, nodes, side)
    return study


def _side(choice: str) -> Side:
    path = Path(choice).expanduser()
    if choice.endswith(".toml") and "=" not in choice and path.is_file():
        where = path.absolute()
        return Side(label=path.stem, choice=str(where), text=where.read_text())
    return Side(label=choice, choice=choice)


def assembled(study: Study, nodes: int, side: Side) -> Parts:
    """What the nodes of a world run on one side. Raises ConfigError or PluginError."""
    return _parts(study.world(nodes), side.choice, side.text)


@lru_cache(maxsize=64)
def _scenario(name: str, text: str, sets: tuple[str, ...]) -> Scenario:
    return parse(text, sets, name=name, place=name)


def _parts(scenario: Scenario, choice: str, text: str) -> Parts:
    """The parts of a choice, from its recorded text where the file is gone or was changed."""
    if not text or (Path(choice).is_file() and Path(choice).read_text() == text):
        return parts_for(choice, scenario)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(choice).name
        path.write_text(text)
        return parts_for(str(path), scenario)


# Running.


def run_cell(cell: Cell, tell: Tell) -> list[Outcome]:
    """Run every side in one world, here and now; outcomes in the sides' order."""
    study = cell.study
    count = len(study.sides)
    found: dict[str, Outcome] = {}
    for done in range(count):
        side = study.sides[(cell.turn + done) % count]

        def progress(now: float, end: float, events: int, done: int = done) -> None:
            tell(cell, (done + min(now / end, 0.999)) / count)

        found[side.label] = _outcome(cell, side, progress)
    return [found[side.label] for side in study.sides]


def _outcome(cell: Cell, side: Side, progress: Callable[[float, float, int], None]) -> Outcome:
    scenario = cell.study.world(cell.nodes)
    parts = assembled(cell.study, cell.nodes, side)
    begun = time.perf_counter()
    one = run(scenario, seed=cell.seed + side.shift, parts=parts, progress=progress)
    ascending = sorted(one.samples)
    return Outcome(
        side=side.label,
        nodes=cell.nodes,
        seed=cell.seed,
        metrics=one.metrics,
        digest=one.digest,
        events=one.events,
        deliveries=sum(one.hops.values()),
        checkpoints=one.checkpoints,
        quantiles=[quantile(ascending, i / GRID) for i in range(GRID + 1)] if ascending else [],
        violation=str(one.violation) if one.violation else "",
        series=one.series,
        degrees=one.degrees,
        hops=one.hops,
        faults=one.faults,
        traffic=one.traffic,
        regions=one.regions,
        worst=max((m for m in one.messages if m.delivered), key=lambda m: m.last, default=None),
        prints=one.prints,
        cpu_s=one.cpu_s,
        wall_s=time.perf_counter() - begun,
    )


def execute(
    study: Study, executor: Executor, tell: Callable[[float, int, int], None] | None = None
) -> list[Outcome]:
    """Run a whole study. tell: given (share of the work done, cells done, cells in all)."""
    done = deque(finishing(study, executor, tell), maxlen=1).pop()
    return [one for cell in study.cells for one in done[cell.nodes, cell.seed]]


def finishing(
    study: Study,
    executor: Executor,
    tell: Callable[[float, int, int], None] | None = None,
    *,
    is_by_seed: bool = False,
) -> Iterator[dict[tuple[int, int], list[Outcome]]]:
    """What is done so far, by size and seed, after each cell; whoever stops listening ends the rest.

    is_by_seed: begin with the first seed in all sizes, for who may stop early; else with the largest
    worlds, so that no worker is left alone with one at the end. What `tell` raises ends it too.
    """
    cells = study.cells
    total = sum(cell.nodes for cell in cells)
    shares = dict.fromkeys(((cell.nodes, cell.seed) for cell in cells), 0.0)
    done: dict[tuple[int, int], list[Outcome]] = {}

    def heard(cell: Cell, share: float) -> None:
        key = (cell.nodes, cell.seed)
        if share > shares[key]:
            shares[key] = share
        if tell is not None:
            worked = sum(nodes * part for (nodes, _), part in shares.items())
            tell(worked / total, len(done), len(cells))

    order = sorted(cells, key=lambda cell: (cell.turn if is_by_seed else 0, -cell.nodes))
    with closing(executor(order, heard)) as working:
        for cell, outcomes in working:
            done[cell.nodes, cell.seed] = outcomes
            yield done
            heard(cell, 1.0)


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def here(cells: Sequence[Cell], tell: Tell) -> Working:
    """One cell after the other, in this process."""
    for cell in cells:
        yield cell, run_cell(cell, tell)


def in_processes(jobs: int) -> Executor:
    """So many worker processes, started afresh: nothing of this one leaks into the worlds."""

    def executor(cells: Sequence[Cell], tell: Tell) -> Working:
        context = multiprocessing.get_context("spawn")
        news: Any = context.SimpleQueue()
        is_off = context.Event()
        workers = min(jobs, len(cells))
        index = {(cell.nodes, cell.seed): cell for cell in cells}
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(news, is_off)
        ) as pool:
            waiting = {pool.submit(_work, cell): cell for cell in cells}
            try:
                while waiting:
                    done, _ = wait(waiting, timeout=GLANCE, return_when=FIRST_COMPLETED)
                    while not news.empty():
                        nodes, seed, share = news.get()
                        tell(index[nodes, seed], share)
                    for future in done:
                        yield waiting.pop(future), future.result()
            except BrokenProcessPool:
                raise GroveError(
                    f"a worker process was ended from outside (most often: out of memory, with "
                    f"{workers} worlds of up to {cells[0].nodes:,} nodes at once); try fewer --jobs"
                ) from None
            finally:
                is_off.set()
                pool.shutdown(wait=True, cancel_futures=True)

    return executor


_told: Any = None
_off: Any = None


def _begin(news: Any, is_off: Any) -> None:
    """In a new worker: Ctrl-C is the parent's to handle, and a worker does not outlive it."""
    global _told, _off
    _told, _off = news, is_off
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _work(cell: Cell) -> list[Outcome]:
    """In a worker: one cell."""
    last = -math.inf

    def tell(cell: Cell, share: float) -> None:
        nonlocal last
        if _off.is_set():
            raise Interrupted
        if time.monotonic() - last > GLANCE:
            last = time.monotonic()
            _told.put((cell.nodes, cell.seed, share))

    return run_cell(cell, tell)
