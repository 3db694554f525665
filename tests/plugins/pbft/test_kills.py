"""`kill -9` of any one of four replicas, on disks of which some forget: as for Raft, fewer times.

GROVE_KILLS: how many strikes (4; 60 with GROVE_FULL=1).
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.plugins.raft.test_kills import FULL, strike

KILLS = int(os.environ.get("GROVE_KILLS", "60" if FULL else "4"))


@pytest.mark.claim("pbft.kills")
def test_no_acknowledged_write_is_lost_and_every_replica_comes_back(record_property: Any) -> None:
    group = strike("pbft", 4, 1, KILLS, record_property)
    assert group.met["strikes"] == KILLS
    assert group.met["writes"] > KILLS
