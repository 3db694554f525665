"""Planted bugs are caught, made small, and shown again by the printed command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from grove_lab.checkers import Agreement, Bounded, ExactlyOnce, Violated, sizes
from grove_lab.choice import parts_for
from grove_lab.replay import read
from grove_lab.run import run
from grove_lab.stage import Stage

from grove_core.cli import main
from grove_core.drive.virtual import VirtualNode
from grove_core.events import Committed, Delivered
from grove_core.machine import PeerId
from tests.core.installing import Shelf
from tests.plugins.lab.conftest import VILLAGE, village
from tests.plugins.lab.planted import BUGS

STRICT = """
[invariants]
symmetric = true
symmetric_within = 5
redundancy = 1.0
redundancy_after = 8
[faults.noise]
kind = "restart"
nodes = [3, 4]
at = 1
lasts = 2
"""


@pytest.mark.claim("lab.checkers-silent-without-bugs")
@pytest.mark.parametrize("seed", range(3))
def test_sound_protocols_break_nothing(seed: int) -> None:
    one = run(village(STRICT, "invariants.fault_grace=5", "duration=40"), seed=seed)
    assert one.violation is None, f"seed {seed}: {one.violation}"


@pytest.mark.claim("lab.planted-bugs")
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught_shrunk_below_10_nodes_and_replayed_by_the_printed_command(
    bug: str, shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice, source, invariant = BUGS[bug]
    shelf.install(f"planted-{bug}", **{bug: source})
    scenario = tmp_path / "strict.toml"
    scenario.write_text(VILLAGE + STRICT)
    sets = ["--set", "invariants.fault_grace=5", "--set", "duration=40"]
    out = ["--profile", choice, "--trace", str(tmp_path / "big.replay.json")]
    assert main(["sim", "run", str(scenario), *sets, *out]) == 1
    told = capsys.readouterr()
    assert f"{invariant} violated at t = " in told.err
    assert "seed 1; again: grove replay " in told.err

    assert main(["sim", "shrink", str(tmp_path / "big.replay.json"), "--budget", "120"]) == 0
    told = capsys.readouterr()
    printed = re.search(r"again +(grove replay (\S+))", told.out)
    assert printed is not None, told.out
    small = read(Path(printed[2]))
    assert small.scenario.nodes < 10
    assert not small.scenario.faults
    assert small.violation is not None
    assert small.violation.invariant == invariant

    environ = {**os.environ, "PYTHONPATH": str(shelf.folder), "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-m", "grove_core.cli", *printed[1].split()[1:]]
    again = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert str(small.violation) in again.stdout
    assert "NOT the recorded" not in again.stderr


def test_delivery_below_its_promise_names_the_message_and_who_missed_it() -> None:
    scenario = village(
        "[invariants]\ndelivery = 1.0\nfault_grace = 0\n"
        '[faults.cut]\nkind = "isolate"\nnodes = [9]\nat = 5\n'
    )
    one = run(scenario, seed=1)
    assert one.violation is None  # while something divides them nothing is promised
    stage = Stage(scenario, 1, parts_for("", scenario))
    stage.world.run(stage.begins)
    assert stage.delivery is not None
    with pytest.raises(Violated, match="reached 3 of 4") as caught:
        stage.delivery.missed(0.75, "reached 3 of 4", stage.world.order[9])
    assert caught.value.violation.nodes == (9,)


def test_a_machine_that_raises_is_a_violation_with_its_place(shelf: Shelf) -> None:
    source = BUGS["again"][1].replace("mid = message_id(msg.publication)", "raise ValueError('planted')")
    shelf.install("planted-raising", again=source)
    scenario = village()
    one = run(scenario, seed=1, parts=parts_for("broadcast=again", scenario))
    assert one.violation is not None
    assert "ValueError: planted" in one.violation.text
    assert "<again on node" in one.violation.text


# Agreement, over events as a consensus machine would emit them


class Room:
    """A stage of four idle nodes and one checker."""

    def __init__(self) -> None:
        scenario = village("", "nodes=4")
        self.stage = Stage(scenario, 1, parts_for("", scenario))
        self.checker = Agreement(self.stage)

    def commit(self, node: int, index: int, command: bytes) -> None:
        event = Committed(index, command * 16, PeerId(b"p"), command)
        self.checker.hear(self.stage.world.order[node], event)


def test_equal_sequences_with_gaps_agree() -> None:
    room = Room()
    for node in range(3):
        for index, command in ((1, b"a"), (2, b"b"), (5, b"c")):
            room.commit(node, index, command)


def test_another_command_at_an_agreed_index_is_disagreement() -> None:
    room = Room()
    room.commit(0, 1, b"a")
    with pytest.raises(Violated, match=r"index 1: node 1 commits 62.*node 0 committed 61") as caught:
        room.commit(1, 1, b"b")
    assert caught.value.violation.nodes == (1, 0)


def test_a_hole_in_ones_own_sequence_is_not_a_prefix() -> None:
    room = Room()
    for index, command in ((1, b"a"), (2, b"b"), (3, b"c")):
        room.commit(0, index, command)
    room.commit(1, 1, b"a")
    with pytest.raises(Violated, match="the next in the agreed order is 2"):
        room.commit(1, 3, b"c")


def test_an_index_that_nobody_had_when_later_ones_were_committed_is_caught() -> None:
    room = Room()
    room.commit(0, 1, b"a")
    room.commit(0, 5, b"b")
    with pytest.raises(Violated, match="commits index 3"):
        room.commit(1, 3, b"x")


def test_a_node_that_restarts_may_begin_anywhere_in_the_agreed_sequence() -> None:
    room = Room()
    for index, command in ((1, b"a"), (2, b"b"), (3, b"c")):
        room.commit(0, index, command)
    room.checker.began(room.stage.world.order[0])
    room.commit(0, 2, b"b")
    room.commit(0, 3, b"c")


def test_a_second_life_may_deliver_again_but_one_life_may_not() -> None:
    room = Room()
    once = ExactlyOnce(room.stage)
    node: VirtualNode = room.stage.world.order[2]
    event = Delivered("lab", b"m" * 32, PeerId(b"p"), b"", 1)
    once.hear(node, event)
    once.began(node)
    once.hear(node, event)
    with pytest.raises(Violated, match="a second time"):
        once.hear(node, event)


def test_a_table_beyond_its_limit_is_found_wherever_it_hides() -> None:
    scenario = village("", "nodes=4", "invariants.table_limit=1000")
    stage = Stage(scenario, 1, parts_for("", scenario))
    stage.world.run(5.0)
    bounded = Bounded(stage)
    bounded.look()
    machine = stage.world.order[2].broadcast.machine
    assert {"eager", "lazy", "received.seen", "received.payloads"} <= {name for name, _ in sizes(machine)}
    machine.received.seen.update((b"%d" % i, 0.0) for i in range(1001))
    with pytest.raises(Violated, match=r"plumtree\.received\.seen holds 1,001 entries; limit 1,000"):
        bounded.look()
