"""What the virtual driver alone promises, beyond the contract."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from grove_core.drive.virtual import Clock, SimulationError, World, pages, world
from grove_core.testing import Village, part
from grove_core.testing.agreement import Agreement
from tests.core.probe import Happened, Note, probe


def _pair() -> tuple[World, Any, Any]:
    world = World(delay=0.01)
    part = probe()
    a, b = world.add([part]), world.add([part])
    world.run_for(0.0)
    a.plugin("probe").call(lambda machine, ctx: ctx.connect(b.peer))
    world.run_for(1.0)
    return world, a, b


def test_a_link_to_an_earlier_life_can_be_reset() -> None:
    world, a, b = _pair()
    world.crash(b, silent=60.0)
    world.restart(b)
    world.run_for(0.1)
    world.reset(a, b)  # once a KeyError: the new life of b knows nothing of the link
    world.run_for(1.0)
    assert a.machine("probe").seen("down") == [(b.peer,)]


def test_a_later_life_draws_anew() -> None:
    world, a, _ = _pair()
    first = a.plugin("probe").call(lambda machine, ctx: ctx.rng.random())
    world.crash(a)
    world.restart(a)
    world.run_for(0.1)
    assert a.plugin("probe").call(lambda machine, ctx: ctx.rng.random()) != first


def test_what_is_on_its_way_to_an_earlier_life_does_not_reach_the_next() -> None:
    world, a, b = _pair()
    a.plugin("probe").call(lambda machine, ctx: ctx.send(b.peer, Note("to the dead")))
    world.crash(b)
    world.restart(b)
    world.run_for(1.0)
    assert b.machine("probe").texts() == []


def test_a_message_that_no_method_handles_is_named() -> None:
    world = World(delay=0.01)
    a, b = world.add([part("plumtree")]), world.add([part("plumtree")])
    world.run_for(0.0)
    a.plugin("plumtree").call(lambda machine, ctx: ctx.send(b.peer, Note("not one of Plumtree's")))
    with pytest.raises(SimulationError, match="Plumtree has no handler for Note"):
        world.run_for(1.0)


def test_a_world_with_wrong_clocks_that_somebody_watched_is_forgotten() -> None:
    """Once each left a class behind, and the class the world: 14 GB after 4,000 seeds."""
    world = World(delay=0.01)
    Agreement(world, "probe")
    node = world.add([probe()])
    node.clock = Clock(1.1)
    world.run_for(1.0)
    left = weakref.ref(world)
    del world, node
    gc.collect()
    assert left() is None


def test_siblings_of_a_node_with_a_wrong_clock_see_one_time() -> None:
    """Once what a handle set off was told by a clock that was wrong twice: leases did not end in time."""
    world = World()
    node = world.add([probe(name="one"), probe(name="two")])
    node.clock = Clock(0.9)
    world.run_for(10.0)
    seen: list[float] = []
    node.machine("two").script["event"] = lambda ctx, event: seen.append(ctx.now)
    node.plugin("one").call(lambda machine, ctx: ctx.emit(Happened("x")))
    assert seen == [node.clock.at(10.0)] == [9.0]


def test_what_is_moved_to_large_pages_is_what_it_was() -> None:
    before = bytearray(range(256)) * (1 << 16)  # 16 MiB, a mapping of its own
    if not pages.collapse():
        pytest.skip("this system grants no large pages")
    assert before == bytearray(range(256)) * (1 << 16)
    totals = Path("/proc/self/smaps_rollup").read_text().splitlines()
    large = next(line for line in totals if line.startswith("AnonHugePages"))
    assert int(large.split()[1]) * 1024 >= 4 * pages.LARGE


def test_a_large_world_asks_for_large_pages_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(world, "MANY_NODES", 2)
    monkeypatch.setattr(world, "MANY_EVENTS", 1)
    monkeypatch.setattr(pages, "collapse", lambda: asked.append(1))
    _pair()
    assert len(asked) > 1


def test_without_proc_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "MAPS", tmp_path / "maps")
    assert pages.collapse() == 0


def test_a_world_that_is_watched_goes_as_one_that_is_not() -> None:
    """What nobody watches is handed over in the loop itself; cuts and crashes go the long way round."""

    def history(trace: bool) -> object:
        village = Village(
            [part("hyparview", shuffle_interval=2.0), part("plumtree")], 40, seed=5, trace=trace
        ).grow(5.0)
        nodes = village.nodes
        for number in range(6):
            village.publish(nodes[number])
            village.world.cut(nodes[number], nodes[-1])
            village.world.crash(nodes[10 + number])
            village.run_for(0.13)
        village.world.mend()
        village.run_for(5.0)
        links = [node.broadcast.links() for node in village.alive]
        return village.delivered, links, village.world.events, village.world.undeliverable

    assert history(trace=True) == history(trace=False)
