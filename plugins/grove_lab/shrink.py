"""From a world that fails to the smallest one found that fails in the same way.

Delta debugging by hand: propose a smaller scenario, run it, keep it if the same invariant breaks.
What is made smaller, in this order, over and over until nothing helps or the budget is spent: the
time after the failure, faults, workloads, nodes, messages, the time before, sizes, and whatever
makes the world less plain (classes, jitter, loss, regions). A smaller world draws other links and
other walks, so a few seeds are tried for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from grove_core.specs import Part
from grove_lab.checkers import Violation
from grove_lab.run import Run, run
from grove_lab.scenario import Class, Network, Scenario

PartsOf = Callable[[Scenario], Mapping[str, tuple[Part, ...]]]
Told = Callable[[int, Scenario, bool], None]
"""Told after each run: (runs so far, what was tried, whether it fails as well)."""

SEEDS = 3
"""Seeds tried for each proposal: the one that failed, and the next ones."""


class Shrunk(msgspec.Struct):
    """The smallest failing world found."""

    scenario: Scenario
    seed: int
    run: Run
    tried: int


class Shrinking:
    """One search. fails: the violation to keep."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        parts: PartsOf,
        *,
        budget: int = 150,
        told: Told | None = None,
    ) -> None:
        self.parts = parts
        self.budget = budget
        self.told = told
        self.tried = 0
        self.scenario = scenario
        self.seed = seed
        first = self.attempt(scenario, seed)
        self.invariant = first.violation.invariant if first.violation else ""
        self.best = first

    def attempt(self, scenario: Scenario, seed: int) -> Run:
        self.tried += 1
        return run(scenario, seed=seed, parts=self.parts(scenario))

    def search(self) -> Shrunk:
        """Shrink until nothing helps or the budget is spent."""
        helped = bool(self.invariant)
        while helped and self.tried < self.budget:
            helped = False
            for proposals in (after, faults, workloads, nodes, messages, before, plainer):
                while self.tried < self.budget and any(map(self.keep, list(proposals(self)))):
                    helped = True
        return Shrunk(self.scenario, self.seed, self.best, self.tried)

    def keep(self, proposal: Scenario) -> bool:
        """Whether a proposal fails in the same way; if so, go on from it."""
        for seed in range(self.seed, self.seed + SEEDS):
            if self.tried >= self.budget:
                return False
            found = self.attempt(proposal, seed)
            same = found.violation is not None and found.violation.invariant == self.invariant
            if self.told is not None:
                self.told(self.tried, proposal, same)
            if same:
                self.scenario, self.seed, self.best = proposal, seed, found
                return True
        return False

    @property
    def violation(self) -> Violation:
        assert self.best.violation is not None
        return self.best.violation


def changed(scenario: Scenario, **fields: Any) -> Scenario:
    return msgspec.structs.replace(scenario, **fields)


def after(search: Shrinking) -> Iterator[Scenario]:
    """End right after the failure."""
    scenario = search.scenario
    needed = max(search.violation.time - scenario.begins, 0.0) + 0.001
    if needed < 0.95 * scenario.duration:
        yield fitted(changed(scenario, duration=needed))


def faults(search: Shrinking) -> Iterator[Scenario]:
    """Without all faults, or without one; over fewer nodes."""
    scenario = search.scenario
    if len(scenario.faults) > 1:
        yield changed(scenario, faults={})
    for name, fault in scenario.faults.items():
        rest = {other: one for other, one in scenario.faults.items() if other != name}
        yield changed(scenario, faults=rest)
        if len(fault.nodes) > 1:
            for half in (fault.nodes[: len(fault.nodes) // 2], fault.nodes[len(fault.nodes) // 2 :]):
                yield changed(scenario, faults={**scenario.faults, name: replace(fault, nodes=half)})


def workloads(search: Shrinking) -> Iterator[Scenario]:
    scenario = search.scenario
    for name in scenario.workloads:
        rest = {other: one for other, one in scenario.workloads.items() if other != name}
        yield changed(scenario, workloads=rest)


def nodes(search: Shrinking) -> Iterator[Scenario]:
    """Far fewer nodes, or fewer, or one fewer."""
    now = search.scenario.nodes
    sizes = (2, 3, 4, 6, 8, now // 8, now // 4, now // 2, 3 * now // 4, now - 1)
    for fewer in dict.fromkeys(sizes):
        if 1 < fewer < now:
            yield fitted(changed(search.scenario, nodes=fewer))


def messages(search: Shrinking) -> Iterator[Scenario]:
    """One message per workload, or half as many."""
    scenario = search.scenario
    for name, one in scenario.workloads.items():
        now = one.count or round(one.rate * scenario.duration) + 1
        for fewer in dict.fromkeys((1, 2, now // 2)):
            if 0 < fewer < now:
                less = replace(one, count=fewer)
                yield changed(scenario, workloads={**scenario.workloads, name: less})


def before(search: Shrinking) -> Iterator[Scenario]:
    """Less time to settle, workloads and faults from the start."""
    scenario = search.scenario
    join = scenario.join
    for shorter in (1.0, join.settle / 4, join.settle / 2):
        if shorter < 0.9 * join.settle:
            yield changed(scenario, join=replace(join, settle=shorter))


def plainer(search: Shrinking) -> Iterator[Scenario]:
    """Fewer kinds of anything."""
    scenario = search.scenario
    if len(scenario.classes) > 1:
        for name, one in scenario.classes.items():
            rest = {other: kind for other, kind in scenario.classes.items() if other != name}
            if not any(name in fault.classes for fault in scenario.faults.values()):
                yield changed(scenario, classes=rest)
            elif one != Class():
                continue
    network = scenario.network
    plain = replace(network, jitter=0.0, loss=0.0, uplink=0.0, latency="constant", delay=Network().delay)
    if plain != network:
        yield changed(scenario, network=plain)
    for name, work in scenario.workloads.items():
        if work.size > 16 or work.size_high:
            small = replace(work, size=16, size_high=0)
            yield changed(scenario, workloads={**scenario.workloads, name: small})


def fitted(scenario: Scenario) -> Scenario:
    """What a smaller scenario can still hold: faults within its nodes and its time."""
    kept = {}
    for name, fault in scenario.faults.items():
        within = tuple(index for index in fault.nodes if index < scenario.nodes)
        if (within or not fault.nodes) and fault.at <= scenario.duration:
            kept[name] = replace(fault, nodes=within)
    work = {name: one for name, one in scenario.workloads.items() if one.start <= scenario.duration}
    return changed(scenario, faults=kept, workloads=work)


def replace(struct: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(struct, **fields)


def shrink(
    scenario: Scenario, *, seed: int, parts: PartsOf, budget: int = 150, told: Told | None = None
) -> Shrunk:
    """The smallest world found that violates what this one does; itself if it violates nothing.

    parts: what each proposal's nodes run. budget: runs at most.
    """
    return Shrinking(scenario, seed, parts, budget=budget, told=told).search()
