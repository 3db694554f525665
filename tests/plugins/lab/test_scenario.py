"""Scenario files: what may stand in them, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from grove_lab.choice import parts_for
from grove_lab.scenario import NoSuchScenario, Scenario, load, parse, stock

from grove_core.errors import ConfigError
from tests.plugins.lab.conftest import village


@pytest.mark.parametrize("name", stock())
def test_every_stock_scenario_is_whole_and_says_what_it_is(name: str) -> None:
    scenario = load(name)
    assert scenario.description
    assert scenario.workloads
    assert len(set(scenario.seeds)) >= 5
    assert parts_for("", scenario)


def test_all_mistakes_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'nodes = 0\nduration = "long"\n[network]\nlow = 0.2\nlaten = 1\n'
        '[faults.quake]\nkind = "quake"\nshare = 2\n[workloads.a]\nsize = 1\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    told = "\n".join(caught.value.problems)
    for line, words in (
        (1, "nodes = 0: expected an integer from 1"),
        (2, "duration = 'long': expected a number"),
        (5, "laten: unknown key; did you mean 'latency'?"),
        (7, "[faults.quake] kind = 'quake': expected"),
        (8, "[faults.quake] share = 2: expected a number"),
        (10, "[workloads.a] size = 1: expected an integer"),
    ):
        if words.startswith("laten"):
            assert f"bad.toml:{line}: [network] laten" in told
            assert "did you mean 'latency'" in told
        else:
            assert f"bad.toml:{line}: {words}" in told
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[network]\nlow = 2.0\nhigh = 1.0", "is above high = 1.0"),
        ('[faults.f]\nkind = "crash"', "hits nobody: set share or nodes"),
        ('[faults.f]\nkind = "crash"\nnodes = [100]', "node 100 of 100"),
        ('[faults.f]\nkind = "crash"\nshare = 0.1\nat = 61', "is after the end, duration = 60"),
        ('[classes.a]\nregion = "europ"', "no such region; did you mean 'europe'?"),
        ('[faults.f]\nkind = "crash"\nshare = 0.1\nclasses = ["b"]\n[classes.a]', "no class 'b'"),
        ("[workloads.a]\nsize = 100\nsize_high = 50", "is below size = 100"),
        ("[invariants]\nredundancy = 1\n[measure]\ntraffic = false", "needs [measure] traffic = true"),
        ("faults = 3", "expected tables, [faults.NAME]"),
        ("[nodes]\na = 1", "nodes"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"scenario:\d+: ") as caught:
        parse(text)
    assert told in str(caught.value)


def test_sets_reach_every_value_and_name_themselves_when_wrong() -> None:
    scenario = village("", "nodes=12", "faults.quake.kind=crash", "faults.quake.share=0.5")
    assert scenario.nodes == 12
    assert scenario.faults["quake"].share == 0.5
    with pytest.raises(ConfigError, match=r"--set network\.loss: \[network\] loss = 2"):
        village("", "network.loss=2")


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(NoSuchScenario, match=r"did you mean 'village-1k'\?.*city-1k"):
        load("vilage-1k")


def test_the_digest_names_what_is_in_force_not_where_it_stood() -> None:
    one = village()
    same = parse(VILLAGE_AGAIN, name="other")
    assert one.digest == same.digest
    assert one.digest != village("", "network.loss=0.1").digest


VILLAGE_AGAIN = """
measure = { deadline = 5, joined = 1 }
workloads = { talk = { rate = 1.0 } }
join = { spacing = 0.2, settle = 30 }
duration = 20
nodes = 30
"""


def test_a_scenario_travels_as_json() -> None:
    scenario = village(
        '[faults.a]\nkind = "churn"\n[plugins.hyparview]\narwl = 4\n[classes.b]\nshare = 2'
    )
    assert msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario) == scenario


def test_protocols_come_from_profile_scenario_class_and_choice_in_that_order() -> None:
    scenario = village(
        "[plugins.hyparview]\nactive_size = 6\n[classes.a]\n[classes.b]\n"
        "[classes.b.plugins.hyparview]\nactive_size = 7\n"
    )
    parts = parts_for("", scenario)
    assert [part.spec.name for part in parts["a"]] == ["hyparview", "plumtree"]
    assert [parts[name][0].config.active_size for name in ("a", "b")] == [6, 7]
    chosen = parts_for("broadcast=flood:seen_for=700+membership=hyparview:active_size=4", scenario)
    assert [parts_of[0].config.active_size for parts_of in chosen.values()] == [4, 4]
    assert [parts_of[1].spec.name for parts_of in chosen.values()] == ["flood", "flood"]
    assert chosen["a"][1].config.seen_for == 700


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("broadcast=", "expected a profile"),
        ("colour=blue", "expected a profile"),
        ("broadcast=flood:x", "expected param=value"),
        ("broadcast=plumtre", "did you mean 'plumtree'"),
        ("broadcast=plumtree:graft_min=-1", "graft_min"),
        ("nowhere", "no such profile"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_in_words(choice: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parts_for(choice, village())
