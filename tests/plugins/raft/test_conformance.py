"""What every protocol machine must do, of Raft."""

from __future__ import annotations

from typing import Any

import msgspec
from grove_raft import SPEC
from grove_raft.config import Config

from grove_core.drive.virtual import World
from grove_core.multibase import base58
from grove_core.specs import Part
from grove_core.testing import Village
from grove_core.testing.conformance.protocol import ProtocolConformance
from tests.plugins.raft.group import QUICK


class TestRaft(ProtocolConformance):
    part = Part(SPEC, Config(**QUICK))

    def scene(self, part: Part, seed: int, **world: Any) -> Village:
        """Three voters that elect, agree, read, and see their leader crash and return."""
        ids = World(seed=seed)
        voters = tuple(base58(ids.add(()).peer) for _ in range(3))
        config = msgspec.structs.replace(part.config, voters=voters)
        village = Village([Part(part.spec, config)], 3, seed=seed, delay=0.005, **world).grow(1.5)
        for number, node in enumerate(village.nodes * 4):
            node.consensus.propose(b"%d" % number)
            node.consensus.read()
        village.run_for(0.5)
        leader = next(n for n in village.nodes if n.peer == village.nodes[0].consensus.leader())
        village.world.crash(leader)
        village.world.restart(leader, at=0.5)
        return village.run_for(2.0)
