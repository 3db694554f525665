"""grove sim and grove replay, as typed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from grove_core.cli import main
from tests.plugins.lab.conftest import VILLAGE


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "home.toml"
    path.write_text(VILLAGE + '[faults.q]\nkind = "crash"\nnodes = [3]\nat = 5\nlasts = 5\n')
    return path


def test_list_names_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"village-1k", "hyparview-10k", "churn", "partition", "city-1k"} <= {
        one["name"] for one in told["scenarios"]
    }


def test_run_tells_figures_as_one_json_object(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--nodes", "12", "--seed", "9", "--set", "duration=12", "--json"]
    assert main(["sim", "run", str(scenario), *flags, "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["nodes"], told["seed"]) == ("grove.sim.run", 12, 9)
    assert told["metrics"]["delivery_ratio"] == 1.0
    assert told["violation"] is None
    names = {Path(path).name for path in told["pictures"]}
    assert names == {
        "delivery.svg", "hops.svg", "degrees.svg", "series.svg", "overlay.svg", "tree.svg", "run.json"
    }  # fmt: skip


def test_pictures_are_sound_svg_and_equal_for_equal_runs(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        assert main(["sim", "run", str(scenario), "--out", str(tmp_path / folder)]) == 0
    for path in sorted((tmp_path / "a").glob("*.svg")):
        text = path.read_text()
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg")
        assert "nan" not in text.lower().replace("nance", "")
        assert (tmp_path / "b" / path.name).read_text() == text
    assert "q: crash (1 node)" in (tmp_path / "a" / "series.svg").read_text()


def test_a_recording_replays_with_a_column_per_node_and_knows_itself_again(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.json"
    flags = ["--nodes", "4", "--set", "faults.q.at=9", "--set", "duration=10"]
    assert main(["sim", "run", str(scenario), *flags, "--trace", str(kept)]) == 0
    capsys.readouterr()
    assert main(["replay", str(kept), "--before", "2"]) == 0
    told = capsys.readouterr().out
    assert "node 0" in told
    assert "node 3" in told
    assert "* Delivered" in told
    assert "link 3 lost" in told
    assert "nothing was violated" in told


def test_a_replay_that_differs_says_so(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.json"
    assert main(["sim", "run", str(scenario), "--nodes", "4", "--trace", str(kept)]) == 0
    recording = json.loads(kept.read_text())
    recording["seed"] += 1
    kept.write_text(json.dumps(recording))
    assert main(["replay", str(kept)]) == 1
    assert "NOT the recorded history" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [("{}", "not a recording"), ("\xff", "not a recording"), ('{"schema": "x"}', "not a recording")],
)
def test_what_is_no_recording_is_refused_in_words(
    content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="latin-1")
    assert main(["replay", str(path)]) == 2
    assert told in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "absent.json")]) == 2


def test_shrinking_what_holds_says_so(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "shrink", str(scenario), "--nodes", "4"]) == 2
    assert "nothing to shrink" in capsys.readouterr().err


def test_a_wrong_scenario_exits_6_with_every_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("nodes = 0\nduratoin = 5\n")
    assert main(["sim", "run", str(path)]) == 6
    told = capsys.readouterr().err
    assert ":1: nodes" in told
    assert ":2: duratoin = 5: unknown key; did you mean 'duration'?" in told
    assert main(["sim", "run", "nowhere"]) == 6
