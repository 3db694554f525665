"""The interaction scripts of etcd-io/raft, restated: see tests/scenarios/raft and scripts.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.raft.scripts import Script, Theatre, play

SCRIPTS = sorted((Path(__file__).parents[2] / "scenarios" / "raft").glob("*.script"))


@pytest.mark.claim("raft.scripts")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_goes_as_the_script_says(path: Path) -> None:
    play(path)


@pytest.mark.claim("raft.scripts")
def test_at_least_20_of_the_28_are_restated(record_property: Callable[[str, object], None]) -> None:
    named = [
        line for path in SCRIPTS for line in path.read_text().splitlines() if line.startswith("# etcd: ")
    ]
    restated = {name.strip() for line in named for name in line.removeprefix("# etcd: ").split(",")}
    record_property("measured", f"{len(restated)} of 28 scripts")
    assert len(restated) >= 20


@pytest.mark.parametrize(
    "line", ["= 1 leader 2", "= 1 log 1", "= bag 1>2 Append", "= 1 voters 1", "= 1 has x", "fly 1"]
)
def test_a_line_that_does_not_hold_is_told_with_its_number(line: str) -> None:
    with pytest.raises(Script, match=r"line 2: "):
        Theatre().play(f"members 3\n{line}")
