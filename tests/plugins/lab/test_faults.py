"""Each fault does to the world what its name says, to whom the scenario says, and undoes it."""

from __future__ import annotations

import pytest
from grove_lab.choice import parts_for
from grove_lab.faults import length
from grove_lab.scenario import Fault
from grove_lab.stage import Stage
from grove_lab.streams import stream

from tests.plugins.lab.conftest import village


def staged(fault: str, *sets: str, seed: int = 1) -> Stage:
    """A village with one fault, at the moment before it strikes, 5 s after settling."""
    scenario = village(f"[faults.f]\nat = 5\n{fault}\n", *sets)
    stage = Stage(scenario, seed, parts_for("", scenario))
    stage.world.run(stage.begins + 4.999)
    return stage


def at(stage: Stage, seconds: float) -> Stage:
    """So many seconds after settling."""
    stage.world.run(stage.begins + seconds)
    return stage


def living(stage: Stage) -> set[int]:
    return {node.index for node in stage.world.order if node.alive}


def believe(stage: Stage, dead: int) -> list[int]:
    """Who still counts a node among its neighbours."""
    peer = stage.world.order[dead].peer
    return [n.index for n in stage.members() if peer in n.membership.neighbors()]


@pytest.mark.parametrize("kind", ["crash", "stop"])
def test_the_named_end_and_come_back_if_it_lasts(kind: str) -> None:
    stage = staged(f'kind = "{kind}"\nnodes = [3, 8]\nlasts = 4')
    assert living(at(stage, 6)) == set(range(30)) - {3, 8}
    assert stage.living == 28
    assert living(at(stage, 9.5)) == set(range(30))
    assert stage.world.order[3].starts == 2
    assert stage.world.order[3].broadcast.topics() == ("lab",)


def test_a_share_is_exact_and_drawn_among_the_living() -> None:
    stage = staged('kind = "crash"\nshare = 0.4')
    assert len(living(at(stage, 6))) == 18


def test_reset_is_noticed_at_once_silent_only_after_its_time() -> None:
    stage = staged('kind = "crash"\nnodes = [3]')
    assert believe(stage, 3)
    assert not believe(at(stage, 5.2), 3)
    stage = staged('kind = "crash"\nnodes = [3]\nnoticed = "silent"\nafter = 2.5')
    assert believe(at(stage, 7.4), 3)
    assert not believe(at(stage, 7.7), 3)


@pytest.mark.claim("lab.senders-only")
def test_with_senders_only_those_who_say_nothing_never_learn() -> None:
    """The negative control of HyParView's recovery: detection by use alone."""
    still = ("workloads.talk.stop=1", "plugins.hyparview.shuffle_interval=3600")
    stage = staged('kind = "crash"\nnodes = [3]\nnoticed = "senders"', *still)
    before = believe(stage, 3)
    assert believe(at(stage, 15), 3) == before  # nobody spoke
    stage = staged('kind = "crash"\nnodes = [3]\nnoticed = "senders"', "workloads.talk.rate=5")
    assert len(believe(stage, 3)) >= 2
    assert len(believe(at(stage, 15), 3)) < 2  # payload and announcements went there, and bounced


def test_a_restart_keeps_what_was_durable_and_loses_the_rest() -> None:
    stage = staged('kind = "restart"\nnodes = [4]\nlasts = 1', "network.disk=0.5")
    node = stage.world.order[4]
    at(stage, 4.8)
    node.membership.call(lambda machine, ctx: ctx.save("early", b"1"))
    stage.world.run(stage.begins + 4.999)  # 0.2 s later: not on the disk yet
    at(stage, 7)
    assert node.membership.call(lambda machine, ctx: ctx.load("early")) is None
    stage = staged('kind = "restart"\nnodes = [4]\nlasts = 1')
    node = stage.world.order[4]
    node.membership.call(lambda machine, ctx: ctx.save("kept", b"1"))
    at(stage, 7)
    assert node.membership.call(lambda machine, ctx: ctx.load("kept")) == b"1"


def test_a_partition_holds_until_it_is_mended_and_one_way_holds_one_way() -> None:
    stage = staged('kind = "partition"\nshare = 0.5\nlasts = 6\nafter = 2')
    at(stage, 5.5)
    a = stage.world.order[0]
    across = [n for n in stage.world.order if not stage.world.reaches(a, n)]
    assert len(across) == 15
    assert not stage.world.reaches(across[0], a)
    at(stage, 7.5)  # links across are given up
    assert all(stage.world.reaches(n, end.other) for n in stage.world.order for end in n.links.values())
    at(stage, 11.5)
    assert all(stage.world.reaches(a, n) for n in stage.world.order)
    assert stage.divided == 0
    stage = staged('kind = "partition"\nnodes = [3]\none_way = true')
    at(stage, 6)
    a, b = stage.world.order[3], stage.world.order[7]
    assert not stage.world.reaches(a, b)
    assert stage.world.reaches(b, a)


def test_the_isolated_reach_nobody_not_even_each_other() -> None:
    stage = staged('kind = "isolate"\nnodes = [3, 4]\nlasts = 3\nafter = 1')
    at(stage, 6.5)
    one, two, other = (stage.world.order[i] for i in (3, 4, 5))
    for a, b in ((one, two), (one, other), (other, two)):
        assert not stage.world.reaches(a, b)
        assert not stage.world.reaches(b, a)
    assert not one.links
    at(stage, 9)
    assert stage.world.reaches(one, two)


def test_what_the_clogged_send_waits_and_then_arrives_in_order() -> None:
    stage = staged('kind = "clog"\nnodes = [3]\nlasts = 3', "workloads.talk.stop=1")
    at(stage, 5.5)
    got: list[bytes] = []
    stage.world.sinks.append(
        lambda node, event: got.append(event.data) if node.index != 3 and hasattr(event, "data") else None
    )
    for number in range(3):
        stage.world.order[3].broadcast.publish("lab", b"%d" % number)
    assert not got
    at(stage, 7.9)
    assert not got
    at(stage, 12)
    assert set(got) == {b"0", b"1", b"2"}


def test_churn_comes_and_goes_by_streams_of_each_nodes_own() -> None:
    churn = 'kind = "churn"\nshare = 1.0\nsession_mean = 4\nabsence_mean = 2\nlasts = 10'

    def lives(*sets: str) -> list[tuple[int, ...]]:
        stage = staged(churn, *sets)
        seen = []
        for second in range(5, 16):
            at(stage, second)
            seen.append(tuple(sorted(living(stage))))
        return seen

    plain = lives()
    assert len(set(plain)) > 5
    assert lives("network.loss=0.1", "plugins.hyparview.arwl=4") == plain


@pytest.mark.parametrize("session", ["exponential", "weibull", "lognormal"])
def test_sessions_have_the_mean_they_are_said_to_have(session: str) -> None:
    fault = Fault(kind="churn", session=session, session_mean=100.0, shape=0.7)  # type: ignore[arg-type]
    rng = stream(1, "test")
    mean = sum(length(rng, fault) for _ in range(40_000)) / 40_000
    assert mean == pytest.approx(100.0, rel=0.03)


def test_a_slow_node_takes_its_time_and_recovers() -> None:
    stage = staged('kind = "slow"\nnodes = [3]\nfactor = 50\nlasts = 5', "cpu.message=0.01")
    at(stage, 6)
    assert stage.slowness[3] == 50
    at(stage, 11)
    assert stage.slowness[3] == 1


def test_a_fast_clock_fires_early_and_shows_more_time() -> None:
    stage = staged('kind = "clock"\nnodes = [3]\nfactor = 2.0\nlasts = 4')
    right, wrong = stage.world.order[2].membership, stage.world.order[3].membership
    read = [h.call(lambda machine, ctx: ctx.now) for h in (right, wrong)]
    assert read[0] == pytest.approx(read[1])
    at(stage, 8)
    read = [h.call(lambda machine, ctx: ctx.now) for h in (right, wrong)]
    assert read[1] - read[0] == pytest.approx(3.0)
    at(stage, 12)
    read = [h.call(lambda machine, ctx: ctx.now) for h in (right, wrong)]
    assert read[1] - read[0] == pytest.approx(4.0)


def test_what_happened_is_told_with_its_time() -> None:
    stage = at(staged('kind = "partition"\nshare = 0.5\nlasts = 2'), 10)
    assert stage.happened == [
        (pytest.approx(5), "f: partition begins (15 nodes)"),
        (pytest.approx(7), "f: partition ends (15 nodes)"),
    ]
