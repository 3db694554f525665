"""Attackers take part as everybody does, and keep back what a `withhold` fault names and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from grove_lab.choice import parts_for
from grove_lab.conduct import Withholder
from grove_lab.run import Run, run
from grove_lab.scenario import Scenario, parse
from grove_lab.stage import Stage
from grove_lab.traffic import numbers
from grove_lab.workload import payload

from grove_core.errors import ConfigError

LINE = """
nodes = 3
duration = 10
[join]
pattern = "dial"
dials = 1
start = 1
settle = 5
[classes.source]
share = 1
meets = ["between"]
[classes.between]
share = 1
attacker = true
dials = 2
[classes.sink]
share = 1
meets = ["between"]
[network]
latency = "constant"
[workloads.talk]
classes = ["source"]
rate = 4
[workloads.more]
classes = ["sink"]
rate = 4
[measure]
deadline = 3
joined = 0
[roles]
membership = "pool"
broadcast = "gossipsub"
[plugins.pool]
low = 1
outbound = 0
[plugins.gossipsub]
degree_low = 1
degree = 2
degree_out = 0
degree_score = 1
[faults.hush]
kind = "withhold"
classes = ["between"]
share = 1.0
"""


def line(text: str = "", *sets: str) -> Run:
    """A source, a sink, and an attacker between them through whom everything must go."""
    return run(parse(LINE + text, sets, name="line"), seed=1)


def ratio(one: Run, name: str) -> float:
    return one.metrics[f"delivery_ratio.{name}"]


def test_what_only_an_attacker_could_pass_on_does_not_arrive() -> None:
    assert ratio(line(), "talk") == 0.0


def test_an_attacker_without_orders_is_a_good_neighbour() -> None:
    one = line("", "faults.hush.at=10")
    assert ratio(one, "talk") == ratio(one, "more") == 1.0
    assert {message.expected for message in one.messages} == {1}, "the attacker is no receiver"


def test_a_censor_keeps_back_one_author_only() -> None:
    one = line('authors = ["source"]')
    assert ratio(one, "talk") == 0.0
    assert ratio(one, "more") == 1.0


def test_the_share_to_drop_is_drawn_once_for_each_message() -> None:
    one = line("drop = 0.5", "workloads.talk.rate=50")
    assert 0.4 < ratio(one, "talk") < 0.6
    again = line("drop = 0.5", "workloads.talk.rate=50")
    assert [m.delivered for m in one.messages] == [m.delivered for m in again.messages]


def test_it_ends_when_the_fault_ends_and_what_was_kept_back_may_still_be_asked_for() -> None:
    one = line("lasts = 5.0\nat = 0.0")
    late = [m.delivered for m in one.messages if m.published > 5.0]
    early = [m.delivered for m in one.messages if m.published < 0.5]
    assert set(late) == {1}
    assert set(early) == {0}
    assert [what.partition(" (")[0] for _, what in one.faults] == [
        "hush: withholding begins",
        "hush: withholding ends",
    ]


@pytest.mark.parametrize("choice", ["", "broadcast=plumtree", "broadcast=flood"])
def test_every_broadcast_can_be_attacked(choice: str) -> None:
    scenario = parse(LINE, name="line")
    one = run(scenario, seed=1, parts=parts_for(choice, scenario))
    assert ratio(one, "talk") == 0.0


def stage_of(text: str, *sets: str) -> Stage:
    scenario = parse(LINE + text, sets, name="line")
    return Stage(scenario, 1, parts_for("", scenario))


def nodes_of(stage: Stage, name: str) -> list[Any]:
    kind = stage.class_names.index(name)
    return [node for node in stage.world.order if stage.kinds[node.index] == kind]


def test_attackers_may_come_late_dial_only_some_and_share_addresses() -> None:
    stage = stage_of(
        "[classes.crowd]\nshare = 6\nattacker = true\nlate = 3\nmeets = ['sink']\nhosts = 2", "nodes=9"
    )
    (sink,) = nodes_of(stage, "sink")
    crowd = nodes_of(stage, "crowd")
    assert len(crowd) == 6
    stage.world.run(3.0)
    assert not any(node.alive for node in crowd)
    stage.world.run(7.0)
    assert all(list(node.links) == [sink.peer] for node in crowd)
    assert len({node.host for node in crowd}) == 2
    assert all(isinstance(node.machine("broadcast"), Withholder) for node in crowd)
    assert not isinstance(sink.machine("broadcast"), Withholder)


def test_no_class_is_empty_however_small_the_world() -> None:
    kinds = stage_of("[classes.crowd]\nshare = 1000", "nodes=5").kinds
    assert sorted(kinds) == [0, 1, 2, 3, 3]


def test_receivers_of_a_workload_are_the_classes_it_asks_about() -> None:
    one = line("[classes.crowd]\nshare = 5\nmeets = ['source']", "nodes=8",
               'workloads.talk.receivers=["crowd"]', "faults.hush.at=10")  # fmt: skip
    assert {m.expected for m in one.messages if m.workload == "talk"} == {5}
    assert {m.expected for m in one.messages if m.workload == "more"} == {6}
    assert ratio(one, "talk") == 1.0


def test_payloads_are_known_by_their_numbers_wherever_they_stand() -> None:
    data = b"head" + payload(7, 100) + b"between" + payload(65_537, 16) + b"tail"
    assert numbers(data) == (7, 65_537)
    assert numbers(b"") == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[faults.f]\nkind = 'withhold'\nshare = 1.0\nclasses = ['sink']", "attacker = true"),
        ("[faults.f]\nkind = 'withhold'\nshare = 1.0", "attacker = true"),
        ("[faults.f]\nkind = 'withhold'\nclasses = ['between']\nshare = 1.0\nauthors = ['sinc']",
         "no class 'sinc'; did you mean 'sink'?"),
        ("[classes.c]\nmeets = ['d']", "no class 'd'"),
        ("[workloads.w]\nclasses = ['between']", "nobody publishes"),
        ("[workloads.w]\nreceivers = ['d']", "no class 'd'"),
    ],
)  # fmt: skip
def test_attacks_that_cannot_be_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(LINE + text)
    assert told in str(caught.value)


def test_late_and_picky_nodes_need_the_joining_pattern_that_knows_them() -> None:
    with pytest.raises(ConfigError, match='need \\[join\\] pattern = "dial"'):
        parse("[classes.a]\nlate = 3")


def test_a_scenario_of_attackers_travels_as_json() -> None:
    import msgspec

    scenario = parse(LINE)
    assert msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario) == scenario
