"""A run: its figures, its digest, and that the world does not move when protocols do."""

from __future__ import annotations

import msgspec
import pytest
from grove_lab.choice import parts_for
from grove_lab.run import Run, run
from grove_lab.scenario import Scenario
from grove_lab.stage import Stage

from grove_core.testing import assert_deterministic
from tests.plugins.lab.conftest import village
from tests.plugins.lab.histories import ROUGH


@pytest.mark.claim("lab.deterministic")
def test_one_seed_is_one_history_in_every_process_and_for_every_hash_seed() -> None:
    assert_deterministic("tests.plugins.lab.histories:rough")


def test_looking_on_does_not_change_the_history() -> None:
    told: list[float] = []
    plain = run(village(), seed=1)
    watched = run(village(), seed=1, trace=True, progress=lambda done, total, events: told.append(done))
    assert watched.digest == plain.digest
    assert watched.trace
    assert told == sorted(told)
    assert told[-1] == village().ends


def test_another_seed_is_another_history() -> None:
    assert run(village(), seed=1).digest != run(village(), seed=2).digest


@pytest.mark.claim("lab.common-random-numbers")
def test_the_world_does_not_move_when_the_protocol_changes() -> None:
    """Links, faults, publications, senders and sizes are the scenario's and the seed's alone."""
    scenario = village(ROUGH)
    seen: list[tuple[object, ...]] = []

    def watch(stage: Stage) -> None:
        delays = [stage.world.delay(a, b) for a in range(30) for b in range(30)]
        seen.append((stage.regions, stage.kinds, delays, [node.peer for node in stage.world.order]))

    one = run(scenario, seed=3, parts=parts_for("broadcast=plumtree", scenario), watch=watch)
    two = run(scenario, seed=3, parts=parts_for("broadcast=flood", scenario), watch=watch)
    assert seen[0] == seen[1]
    assert one.faults == two.faults
    said = [[(m.workload, m.published, m.sender, m.size) for m in r.messages] for r in (one, two)]
    assert said[0] == said[1]
    assert one.digest != two.digest


def test_a_fault_added_moves_no_latency_and_no_publication() -> None:
    quiet, broken = village(), village('[faults.q]\nkind = "crash"\nnodes = [7]\nat = 10\n')
    one, two = run(quiet, seed=4), run(broken, seed=4)
    assert [m.published for m in one.messages] == [m.published for m in two.messages]
    assert [m.id for m in one.messages if m.published < 9] == [
        m.id for m in two.messages if m.published < 9
    ]


def test_figures_of_flooding_agree_with_what_flooding_must_cost() -> None:
    """Each node sends to all neighbours but one: copies = links * 2 - (n - 1), whatever the graph."""
    scenario = village("", "duration=40")
    one = run(scenario, seed=1, parts=parts_for("broadcast=flood", scenario))
    links = sum(degree * count for degree, count in one.degrees.items())  # both ends
    copies = links - (scenario.nodes - 1)
    assert one.metrics["delivery_ratio"] == 1.0
    expected = copies / (scenario.nodes - 1) - 1
    assert one.metrics["duplicates_per_delivery"] == pytest.approx(expected, abs=0.05)
    assert one.metrics["latency_p50_ms"] <= one.metrics["latency_p99_ms"]
    assert one.metrics["bytes_up_per_node_s"] == pytest.approx(one.metrics["bytes_down_per_node_s"])
    assert 0 < one.metrics["control_share"] < 1


def test_a_run_is_plain_data() -> None:
    one = run(village(), seed=1)
    again = msgspec.json.decode(msgspec.json.encode(one), type=Run)
    assert again.metrics == one.metrics
    assert again.messages == one.messages


@pytest.mark.parametrize("pattern", ["serial", "random", "dial", "full"])
def test_everybody_meets_whatever_the_joining_pattern(pattern: str) -> None:
    sets = [f"join.pattern={pattern}", "join.dials=6", "nodes=12"]
    if pattern in ("dial", "full"):
        sets += ["roles.membership=pool", "plugins.pool.low=5", "plugins.pool.outbound=2"]
    one = run(village("", *sets), seed=1)
    assert one.metrics["connectivity"] == 1.0
    assert one.metrics["delivery_ratio"] == 1.0


def test_traffic_need_not_be_counted() -> None:
    one = run(village("", "measure.traffic=false"), seed=1)
    assert not one.traffic
    assert "bytes_up_per_node_s" not in one.metrics
    assert one.metrics["delivery_ratio"] == 1.0


def test_shares_of_classes_are_exact_and_classes_have_their_own_protocols() -> None:
    scenario: Scenario = village(
        "[classes.a]\nshare = 2\n[classes.b]\nshare = 1\n[classes.b.plugins.hyparview]\nactive_size = 3"
    )
    stage = Stage(scenario, 1, parts_for("", scenario))
    assert [bytes(stage.kinds).count(kind) for kind in (0, 1)] == [20, 10]
    stage.world.run(1.0)
    sizes = {n.membership.machine.config.active_size for n in stage.world.order if n.alive}
    assert sizes <= {3, 5}
