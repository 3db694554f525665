"""`grove compare` and `grove reproduce` as people call them, in processes of their own."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grove_lab.compare import manifest, runs

SMALL = Path(__file__).with_name("small.toml")


def grove(*words: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GROVE_")}
    return subprocess.run(
        [sys.executable, "-m", "grove_core.cli", *map(str, words)],
        cwd=cwd, env={**env, **environ}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of two protocols over six seeds."""
    folder = tmp_path_factory.mktemp("compared")
    done = grove(
        "compare", "broadcast=plumtree", "broadcast=flood", "--scenario", SMALL, "--nodes", "12",
        "--seeds", "6", "--jobs", "1", "--out", folder / "out", "--json", cwd=folder,
        PYTHONHASHSEED="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "said.json").write_text(done.stdout)
    return folder


def test_one_object_says_what_was_found_and_where_it_lies(compared: Path) -> None:
    said = json.loads((compared / "said.json").read_text())
    assert said["schema"] == "grove.compare"
    assert (said["runs"], said["failed"]) == (12, 0)
    assert said["headlines"][0].startswith("In small (12 nodes, ")
    primary = said["tables"][0]["rows"][0]
    assert primary["metric"] == "latency_p95_ms"
    assert primary["word"] in ("better", "worse", "equal", "undecided")
    for name in ("report", "manifest"):
        assert Path(said[name]).is_file()


def test_every_run_is_a_line_that_other_programs_read(compared: Path) -> None:
    with (compared / "out" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    found = manifest.read(compared / "out")
    for row, run in zip(rows, found.runs, strict=True):
        assert (row["side"], int(row["seed"]), row["digest"]) == (run.side, run.seed, run.digest)
        assert float(row["latency_p95_ms"]) == run.metrics["latency_p95_ms"]
    lines = (compared / "out" / "events.blake2b").read_text().splitlines()
    assert lines[0] == f"{found.runs[0].digest}  broadcast-plumtree/12/1"


def test_the_manifest_holds_all_it_takes(compared: Path) -> None:
    found = manifest.read(compared / "out" / "manifest.json")
    assert found.study.scenario_text == SMALL.read_text()
    assert found.study.seeds == (1, 2, 3, 4, 5, 6)
    assert "[plugins.flood]" in found.profiles["broadcast=flood"]
    assert "active_size = " in found.profiles["broadcast=flood"]
    assert found.scenario_digests == {"12": found.study.world(12).digest}
    assert "sha256" in found.streams
    assert found.settings.primary == "latency_p95_ms"
    assert found.software.plugins["grove_plumtree"]["source"]
    assert found.software.plugins["grove_broadcast_flood"]["version"]
    assert "grove compare" not in found.cpu
    assert found.command.startswith("grove compare broadcast=plumtree")
    assert found.started <= found.ended
    assert found.licence
    assert all(run.checkpoints for run in found.runs)


@pytest.mark.claim("compare.reproduces")
def test_the_same_happens_under_another_hash_seed_from_another_folder(
    compared: Path, tmp_path: Path
) -> None:
    done = grove(
        "reproduce", compared / "out" / "manifest.json", "--jobs", "1", cwd=tmp_path, PYTHONHASHSEED="2"
    )
    assert (done.returncode, done.stdout) == (0, "identical: 12 runs, every event and every metric\n")
    assert done.stderr == ""


def tampered(compared: Path, tmp_path: Path, change: Any) -> Path:
    """A copy of the manifest with something changed in it."""
    tree = json.loads((compared / "out" / "manifest.json").read_text())
    change(tree)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(tree))
    (tmp_path / runs.PRINTS).write_bytes((compared / "out" / runs.PRINTS).read_bytes())
    return path


def test_another_history_is_told_with_the_moment_it_parts(compared: Path, tmp_path: Path) -> None:
    """The manifest says one link delay; the recorded runs had another."""

    def slower(tree: Any) -> None:
        tree["study"]["sets"].append("network.high=0.06")

    path = tampered(compared, tmp_path, slower)
    done = grove("reproduce", path, "--seeds", "2,", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "different: 2 of 2 runs. The first:" in done.stdout
    assert "broadcast=plumtree, 12 nodes, seed 2: the same until t = " in done.stdout
    assert "the first metric that differs is " in done.stdout
    assert re.search(
        r"the first that differs is event [\d,]+, which now is \w+ .* at node \d+ \(t = [\d.]+ s",
        done.stdout,
    )
    (tmp_path / runs.PRINTS).unlink()
    done = grove("reproduce", path, "--seeds", "2,", "--jobs", "1", cwd=tmp_path)
    assert "which now is" not in done.stdout
    assert "note: without events.prints the single event cannot be named" in done.stderr


def test_another_figure_of_the_same_history_is_told(compared: Path, tmp_path: Path) -> None:
    def better(tree: Any) -> None:
        tree["runs"][0]["metrics"]["latency_p50_ms"] = 1.0

    path = tampered(compared, tmp_path, better)
    done = grove("reproduce", path, "--seeds", "1,", "--jobs", "1", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert (done.returncode, said["identical"], len(said["different"])) == (1, False, 1)
    assert "the first metric that differs is latency_p50_ms: 1.0 then, " in said["different"][0]


def test_software_that_changed_since_is_named(compared: Path, tmp_path: Path) -> None:
    def older(tree: Any) -> None:
        tree["software"]["plugins"]["grove_plumtree"]["source"] = "0" * 32
        tree["software"]["python"] = "CPython 3.9.1"

    path = tampered(compared, tmp_path, older)
    done = grove("reproduce", path, "--seeds", "1,", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 0
    assert "note: python was CPython 3.9.1, is " in done.stderr
    assert "note: the source of grove_plumtree (grove-node " in done.stderr


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 5000, b'{"format": 2}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(data)
    with pytest.raises(manifest.BadManifest, match=r"manifest\.json"):
        manifest.read(path)
    with pytest.raises(manifest.BadManifest, match="cannot be read"):
        manifest.read(tmp_path / "none.json")


def test_seeds_that_never_ran_cannot_be_reproduced(compared: Path, tmp_path: Path) -> None:
    done = grove("reproduce", compared / "out", "--seeds", "99,", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "no run with seed 99 (there are: 1, 2, 3, 4, 5, 6)" in done.stderr


def test_the_table_of_a_pipe_keeps_every_column(tmp_path: Path) -> None:
    done = grove(
        "compare", "broadcast=plumtree", "broadcast=flood", "--scenario", SMALL, "--nodes", "8",
        "--seeds", "2", "--jobs", "1", "--baseline", "broadcast=flood", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no verdict below 6 seeds" in done.stdout
    assert "This world is simulated; not modelled:" in done.stdout
    heads = next(line for line in done.stdout.splitlines() if line.startswith("metric"))
    assert heads.split()[:3] == ["metric", "flood", "plumtree"]  # the baseline first
    assert "verdict" in heads
    latest = tmp_path / "compare" / "latest"
    assert latest.is_symlink()
    assert (latest / "report.html").is_file()
