"""Twins: n = 4 with one voter in two places, and whatever the network does, no conflicting commits."""

from __future__ import annotations

import pytest

from tests.plugins.pbft.twins import SCENARIOS, Twins, conflicts


@pytest.mark.claim("pbft.twins")
def test_no_schedule_of_four_views_makes_honest_replicas_disagree() -> None:
    committed = 0
    for seed in range(SCENARIOS):
        twins = Twins(seed)
        assert not conflicts(twins), f"seed {seed}: {conflicts(twins)}; python: Twins({seed})"
        committed += any(ctx.committed for ctx in twins.contexts)
    assert committed > SCENARIOS / 2, "most schedules let somebody commit, or nothing was tested"


@pytest.mark.claim("pbft.twins-control")
def test_with_quorums_of_2f_a_conflict_is_found() -> None:
    """Negative control: two quorums of 2f share no correct voter, and some schedule shows it."""
    found = next((seed for seed in range(10_000) if conflicts(Twins(seed, quorum=2))), None)
    assert found is not None
