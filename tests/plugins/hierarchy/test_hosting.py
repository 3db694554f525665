"""The registry finds what plays the two parts: the protocols inside are a matter of configuration."""

from __future__ import annotations

from typing import Any

import pytest

from grove_core.config import load
from grove_core.drive.virtual import World
from grove_core.errors import ConfigError
from grove_core.events import Committed
from grove_core.identity import peer_text
from grove_core.registry import assemble
from grove_core.specs import Part


def planned(*sets: str) -> Part:
    sets = ("roles.consensus=hierarchy", *sets)
    plan = assemble(load(sets=list(sets), environ={}))
    return next(part for part in plan.parts if part.spec.role == "consensus")


@pytest.mark.claim("hierarchy.hosts")
@pytest.mark.parametrize(("group", "leaders"), [("pbft", "raft"), ("raft", "raft"), ("pbft", "pbft")])
@pytest.mark.parametrize("variant", ["trusting", "certified"])
def test_the_configured_plugins_play_the_two_parts(group: str, leaders: str, variant: str) -> None:
    world = World(seed=8, delay=0.01)
    ids = [peer_text(world.peer(index)) for index in range(6)]
    part = planned(
        f"plugins.hierarchy.group={group}",
        f"plugins.hierarchy.leaders={leaders}",
        f"plugins.hierarchy.variant={variant}",
        f"plugins.hierarchy.groups={[ids[:3], ids[3:]]}".replace("'", '"'),
    )
    assert [part.hosted[field].spec.name for field in ("group", "leaders")] == [group, leaders]
    nodes = [world.add((part,)) for _ in ids]
    heard: list[tuple[int, Any]] = []
    world.sinks.append(
        lambda node, event: heard.append((node.index, event)) if isinstance(event, Committed) else None
    )
    world.run_for(20.0)
    nodes[4].consensus.propose(b"hosted")
    world.run_for(10.0)
    assert sorted(index for index, _ in heard) == list(range(6))
    assert {event.command for _, event in heard} == {b"hosted"}


def test_a_hierarchy_cannot_host_itself() -> None:
    with pytest.raises(ConfigError, match="circle"):
        planned("plugins.hierarchy.group=hierarchy")
