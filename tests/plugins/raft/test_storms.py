"""Random runs: every safety rule after every step, and linearizable histories, whatever breaks.

GROVE_FULL=1 pytest tests/plugins/raft/test_storms.py      10,000 seeds instead of 200
python -c "from tests.plugins.raft.runs import run; run(SEED)"      one seed again
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from grove_raft.machine import Raft

from grove_core.drive.virtual import SimulationError
from grove_core.testing.agreement import Disagreement
from grove_core.testing.determinism import assert_deterministic
from tests.plugins.raft.group import Clients, Group
from tests.plugins.raft.mutants import MUTANTS
from tests.plugins.raft.runs import Violation, run

FULL = bool(os.environ.get("GROVE_FULL"))
BLOCK = 25
BLOCKS = 400 if FULL else 8
FOUND = (Disagreement, Violation, SimulationError)


@pytest.mark.claim("raft.safe")
@pytest.mark.claim("raft.linearizable")
@pytest.mark.parametrize("block", range(BLOCKS))
def test_storms_break_no_rule_and_the_group_comes_to_life_again(block: int) -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(block * BLOCK + 1, (block + 1) * BLOCK + 1):
        verdicts[run(seed).verdict] += 1  # type: ignore[attr-defined]
    # Unknown is not a pass: most histories must have been decided.
    assert verdicts["linearizable"] >= BLOCK * 0.8, verdicts


@pytest.mark.claim("raft.mutants")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_known_bug_is_caught(mutant: type[Raft]) -> None:
    for seed in range(1, 1001):
        try:
            run(seed, mutant, live=False, **MUTANTS[mutant])
        except FOUND:
            return
    pytest.fail(f"{mutant.__name__}: 1,000 seeds found nothing")


@pytest.mark.claim("raft.amnesia")
def test_who_forgets_everything_breaks_agreement() -> None:
    """The negative control: Raft does not survive lost disks, and the checkers see it."""
    for seed in range(1, 201):
        try:
            run(seed, amnesia=True, live=False, changes=0)
        except FOUND:
            return
    pytest.fail("amnesia went unnoticed for 200 seeds")


def one_history() -> str:
    """A traced run, for comparison between processes."""
    from random import Random

    group = Group(5, seed=7, trace=True, snapshot_every=20, checked=False)
    Clients(group, Random(7), 40.0)
    group.run(1.5)
    group.world.crash(group.elect())
    group.run(1.5)
    return group.world.digest()


@pytest.mark.claim("raft.deterministic")
def test_one_seed_is_one_history() -> None:
    assert_deterministic("tests.plugins.raft.test_storms:one_history")
