"""`kill -9` of any minority at any moment, on disks of which some forget (issue 4, acceptance 6).

GROVE_KILLS: how many strikes (6; 500 with GROVE_FULL=1). Five real processes over TCP; between death and
the next life some records are torn, flipped, overwritten or gone: `tests/core/broken_disk.py`.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest

from tests.plugins.commons.kills import Group

FULL = os.environ.get("GROVE_FULL") == "1"
KILLS = int(os.environ.get("GROVE_KILLS", "500" if FULL else "6"))


def strike(kind: str, nodes: int, tolerated: int, kills: int, record_property: Any) -> Group:
    seed = int(os.environ.get("GROVE_SEED", SystemRandom().randrange(1 << 32)))
    print(f"GROVE_KILLS={kills} GROVE_SEED={seed} (of the strikes; the rest is real)")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="grove-") as folder:
        group = Group(kind, nodes, tolerated, Path(folder), Random(seed))
        try:
            group.run(kills)
            group.verdict()
        finally:
            group.end()
    met = group.met
    measured = (
        f"{met['strikes']} strikes, {met['kills']} kills, {sum(group.faults.values())} disk faults, "
        f"{met['losses noticed']} losses noticed and mended, {met['writes']} writes acknowledged, "
        f"0 lost; slowest return {group.slowest:.1f} s"
    )
    record_property("measured", measured)
    print(f"{kind}: {measured}; {time.monotonic() - began:.0f} s; {dict(group.faults)}")
    return group


@pytest.mark.claim("raft.kills")
def test_no_acknowledged_write_is_lost_and_every_member_comes_back(record_property: Any) -> None:
    nodes, tolerated = (5, 2) if FULL else (3, 1)
    group = strike("raft", nodes, tolerated, KILLS, record_property)
    assert group.met["strikes"] == KILLS
    assert group.met["writes"] > KILLS
