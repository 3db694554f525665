"""Nodes by number in the settings of plugins become peer ids, once there is a world to have them."""

from __future__ import annotations

import pytest
from grove_lab.choice import parts_for
from grove_lab.run import run
from grove_lab.scenario import load
from grove_lab.stage import Stage
from grove_lab.standins import expanded, stand_in

from grove_core.identity import peer_text


def test_numbers_ranges_and_all_become_ids_within_the_nodes() -> None:
    assert expanded({"a": ["@1", "@3-5", "x"]}, 5) == {"a": [stand_in(1), stand_in(3), stand_in(4), "x"]}
    assert expanded(["@all"], 3) == [stand_in(0), stand_in(1), stand_in(2)]
    assert expanded("@all", 3) == "@all"  # only in lists


@pytest.mark.parametrize("seed", [1, 2])
def test_the_voters_of_a_scenario_are_its_nodes(seed: int) -> None:
    scenario = load("raft-5")
    stage = Stage(scenario, seed, parts_for("", scenario))
    expected = tuple(peer_text(node.peer) for node in stage.world.order)
    for node in stage.world.order:
        (config,) = [part.config for part in node.parts if part.spec.name == "raft"]
        assert config.voters == expected
    assert len({id(node.parts) for node in stage.world.order}) == 1  # shared, not one per node


@pytest.mark.claim("lab.consensus-under-faults")
@pytest.mark.parametrize("seed", range(1, 4))
def test_raft_agrees_through_restarts_and_a_partition(seed: int) -> None:
    one = run(load("raft-5"), seed=seed)
    assert one.violation is None, f"seed {seed}: {one.violation}"
    assert one.metrics["commit_ratio"] > 0.8
