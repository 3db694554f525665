"""Runs watched: the same history, the event in which two differ, and how a message came to the last."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest
from grove_lab.choice import parts_for
from grove_lab.compare import manifest, traces
from grove_lab.compare.judging import judge
from grove_lab.compare.pairing import Outcome, Study, execute, here, plan
from grove_lab.flights import Flights
from grove_lab.replay import read
from grove_lab.replay import replay as again
from grove_lab.run import Run, run
from grove_lab.stage import Stage

from grove_core.cli import main
from grove_core.drive.virtual import VirtualNode
from grove_core.machine import Event
from tests.plugins.lab.conftest import VILLAGE, village
from tests.plugins.lab.histories import ROUGH

SMALL = Path(__file__).with_name("small.toml")
PLUMTREE, GOSSIPSUB = "broadcast=plumtree", "broadcast=gossipsub"


@pytest.fixture(scope="module")
def compared() -> tuple[Study, list[Outcome]]:
    study = plan(SMALL, [PLUMTREE, GOSSIPSUB], seeds=[1, 2])
    return study, execute(study, here)


@pytest.mark.claim("compare.watching")
def test_watching_moves_nothing() -> None:
    """In a world with classes, lines, prices, crashes, clocks and partitions."""
    plain = run(village(ROUGH), seed=5)
    seen = Flights(since=30.0)
    watched = run(village(ROUGH), seed=5, watch=seen.watch)
    assert watched.digest == plain.digest
    assert watched.prints == plain.prints
    assert seen.among(range(30))


def logged(study: Study, one: Outcome) -> list[tuple[float, int, str, str]]:
    """Every event of a run, by our own sink."""
    found: list[tuple[float, int, str, str]] = []

    def watch(stage: Stage) -> None:
        def hear(node: VirtualNode, event: Event) -> None:
            found.append((stage.world.now, node.index, type(event).__name__, repr(event)))

        stage.world.sinks.append(hear)

    traces.again(study, one, watch=watch)
    return found


def test_a_print_stands_for_each_event(compared: tuple[Study, list[Outcome]]) -> None:
    study, outcomes = compared
    assert len(outcomes[0].prints) == 2 * len(logged(study, outcomes[0]))


@pytest.mark.parametrize("seed", range(20))
def test_the_first_difference_is_found_wherever_it_is(seed: int) -> None:
    rng = Random(seed)
    then = rng.randbytes(2 * rng.randrange(1, 300))
    at = rng.randrange(len(then) // 2)
    other = bytes(byte ^ 0xFF for byte in then[2 * at : 2 * at + 2])
    assert traces.first_difference(then, then) is None
    assert traces.first_difference(then, then[: 2 * at] + other + then[2 * at + 2 :]) == at, (
        f"seed {seed}"
    )
    assert traces.first_difference(then, then[: 2 * at]) == at
    assert traces.first_difference(then, then + b"ab") == len(then) // 2
    # Two histories that part go on differing.
    assert traces.first_difference(then, then[: 2 * at] + other + rng.randbytes(len(then))) == at


@pytest.mark.claim("compare.reproduces")
def test_the_event_in_which_two_histories_part_is_named(compared: tuple[Study, list[Outcome]]) -> None:
    """The second history is of the same seed with a message more: found again in full by our own log."""
    study, outcomes = compared
    other = plan(SMALL, [PLUMTREE, GOSSIPSUB], seeds=[1, 2], sets=["workloads.talk.start=0.5"])
    then, now = outcomes[0], execute(other, here)[0]
    mine, theirs = logged(study, then), logged(other, now)
    at = next(k for k, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
    when, node, kind, _ = theirs[at]
    before = mine[at - 1]
    ran = manifest.Ran(
        side=then.side, nodes=then.nodes, seed=then.seed, digest="", events=0, metrics={}
    )  # fmt: skip
    said = traces.first_event(other, ran, then.prints, now)
    assert said is not None
    assert f"event {at + 1:,}, which now is {kind} " in said
    assert f"at node {node} (t = {when:.6f} s" in said
    assert f"last {before[2]} " in said
    assert f"at node {before[1]} (t = {before[0]:.6f} s" in said
    assert traces.first_event(study, ran, then.prints, then) is None


def test_a_history_that_ended_early_is_told(compared: tuple[Study, list[Outcome]]) -> None:
    study, outcomes = compared
    one = outcomes[0]
    ran = manifest.Ran(side=one.side, nodes=one.nodes, seed=one.seed, digest="", events=0, metrics={})
    count = len(one.prints) // 2
    shorter = traces.first_event(study, ran, one.prints[:-2], one)
    assert shorter is not None
    assert f"then there was no event {count:,}; now it is " in shorter
    longer = traces.first_event(study, ran, one.prints + b"ab", one)
    assert longer is not None
    assert f"then there was an event {count + 1:,}; now there is none" in longer


@pytest.mark.parametrize("choice", [PLUMTREE, GOSSIPSUB, "broadcast=flood"])
def test_the_way_of_a_message_obeys_cause_and_effect(choice: str) -> None:
    """From author to last receiver: no node sends before it has it, none has it before it came."""
    scenario = village()
    parts = parts_for(choice, scenario)
    one: Run = run(scenario, seed=2, parts=parts)
    message = max(one.messages, key=lambda one: one.last)
    published = scenario.begins + message.published
    flights = Flights(published, published + message.last + 0.1)
    run(scenario, seed=2, parts=parts, watch=flights.watch)
    way = flights.way(bytes.fromhex(message.id), message.sender)
    assert way is not None
    assert way.nodes[0] == (message.sender, published)
    assert way.nodes[-1][1] == pytest.approx(published + message.last)
    between = flights.among(range(scenario.nodes))
    for (source, had), (target, has) in zip(way.nodes, way.nodes[1:], strict=False):
        assert any(
            (f.source, f.target, f.came) == (source, target, has)
            and had <= f.sent < f.came
            and way.payload in f.payloads
            for f in between
        )


def test_each_side_gets_a_picture_of_its_worst_message(compared: tuple[Study, list[Outcome]]) -> None:
    study, outcomes = compared
    tables = judge(study, outcomes, primary="latency_p95_ms", margin=0.03)
    drawn = traces.worst(study, outcomes, tables)
    assert list(drawn) == ["spacetime_a", "spacetime_b"]
    for name, side in (("spacetime_a", PLUMTREE), ("spacetime_b", GOSSIPSUB)):
        slowest = max(one.worst.last for one in outcomes if one.side == side and one.worst)
        ElementTree.fromstring(drawn[name])
        assert f"{1e3 * slowest:,.1f} ms and " in drawn[name]
        assert drawn[name].count(">author<") == drawn[name].count(">last<") == 1
        assert "nan" not in drawn[name]


def test_a_trace_holds_every_event_and_can_be_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--nodes", "8", "--seeds", "2", "--jobs", "1", "--trace", "seed=2", "--json"]
    out = tmp_path / "out"
    assert (
        main(["compare", PLUMTREE, GOSSIPSUB, "--scenario", str(SMALL), *flags, "--out", str(out)]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert len(said["traces"]) == 2
    found = {(run.side, run.seed): run for run in manifest.read(out).runs}
    for folder, side in zip(map(Path, said["traces"]), (PLUMTREE, GOSSIPSUB), strict=True):
        recording = read(folder / "run.replay.json")
        assert recording.digest == found[side, 2].digest
        with (folder / "events.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["event"] for row in rows} >= {"NeighborUp", "Delivered"}
        one, _ = again(recording)
        assert len(rows) == len(one.prints) // 2
        assert (folder / "spacetime.svg").is_file()
    picture = tmp_path / "end.svg"
    replayed = ["replay", str(Path(said["traces"][0]) / "run.replay.json")]
    assert main([*replayed, "--picture", str(picture)]) == 0
    ElementTree.fromstring(picture.read_text())


def test_the_picture_of_a_violation_shows_the_nodes_it_names_and_nothing_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drawn is the second before a moment in mid-run that the recording calls a violation."""
    path, kept, picture = (tmp_path / name for name in ("home.toml", "kept.json", "moment.svg"))
    path.write_text(VILLAGE)
    assert main(["sim", "run", str(path), "--trace", str(kept)]) == 0
    recording = json.loads(kept.read_text())
    violation = {"invariant": "exactly-once", "time": 45.0, "nodes": [3, 17], "text": "twice & again"}
    kept.write_text(json.dumps(recording | {"violation": violation}))
    assert main(["replay", str(kept), "--before", "1", "--picture", str(picture)]) == 0
    drawn = picture.read_text()
    ElementTree.fromstring(drawn)
    assert drawn.count(">named<") == 2
    assert ">3<" in drawn
    assert ">17<" in drawn
    assert "exactly-once" in drawn
    assert "twice &amp; again" in drawn
    assert "from t = 44.000 to 45.000 s" in drawn


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--trace", "seed=99"], "seed=99: is not among the seeds"),
        (["--trace", "7"], "expected seed=7"),
        (["--budget", "soon"], "expected a time as 90s, 10m or 2h"),
        (["--budget", "-1"], "expected a time"),
        (["--stop-at", "ci=2"], "expected ci=2%"),
        (["--stop-at", "p=2%"], "expected ci=2%"),
        (["--transport", "quic"], "--transport is for --real"),
        (["--real", "--nodes", "5", "--trace", "seed=1"], "--trace is not for --real"),
    ],
)
def test_options_that_cannot_be_are_told_before_anything_runs(
    flags: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", PLUMTREE, GOSSIPSUB, "--scenario", str(SMALL), "--seeds", "2", *flags]
    assert main(command) == 2
    assert text in capsys.readouterr().err
