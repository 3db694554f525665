"""The same machine over real connections and in virtual time: real signatures, codec and records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from grove_pbft import SPEC
from grove_pbft.config import Config

from grove_core.identity import peer_text
from grove_core.specs import Part
from tests.core.stages import STAGES


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.mark.claim("pbft.one-object")
def test_four_voters_agree_lose_their_primary_and_go_on(stage: Any) -> None:
    scout = type(stage)()
    ids = [scout.peer(scout.add()) for _ in range(4)]  # a stage's ids are always the same
    scout.close()
    settings = Config(voters=tuple(map(peer_text, ids)), request_timeout=0.3, rebroadcast=0.1)
    nodes = [stage.add(Part(SPEC, settings)) for _ in range(4)]
    assert [stage.peer(node) for node in nodes] == ids
    nodes.sort(key=stage.peer)

    def executed(node: Any) -> int:
        index: int = stage.machine(node, "pbft").index
        return index

    def ask(node: Any) -> None:
        stage.act(node, lambda machine, ctx: machine.propose(ctx, b"x"), "pbft")

    for node in nodes:
        ask(node)
    stage.until(lambda: all(executed(node) == 4 for node in nodes))
    stage.crash(nodes[0])
    ask(nodes[2])
    stage.until(lambda: all(executed(node) == 5 for node in nodes[1:]))
    stage.restart(nodes[0])
    stage.until(lambda: executed(nodes[0]) == 5)
    ask(nodes[0])
    stage.until(lambda: all(executed(node) == 6 for node in nodes))
    assert len({stage.machine(node, "pbft").history for node in nodes}) == 1
