"""The machines that pass the papers' tests in virtual time are those that speak on real connections.

Not copies and not ports: one class from one module, built from one part, moved by either driver.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grove_core.config import load
from grove_core.registry import assemble
from grove_core.testing import part
from tests.core.stages import STAGES

ROOT = Path(__file__).parents[2]
PARTS = [part("hyparview"), part("plumtree")]


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.mark.claim("village.one-object")
def test_the_same_parts_deliver_under_every_driver(stage: Any) -> None:
    nodes = [stage.add(*PARTS) for _ in range(4)]
    enter: Callable[[Any, Any], Any] = lambda machine, ctx: machine.subscribe(ctx, "t")  # noqa: E731
    for node in nodes:
        stage.act(node, enter, "plumtree")
    for node in nodes[1:]:
        contact = stage.peer(nodes[0])
        stage.act(node, lambda machine, ctx, to=contact: machine.join(ctx, to), "hyparview")
        stage.until(lambda node=node: bool(stage.machine(node, "hyparview").neighbors()))
    message = stage.act(nodes[3], lambda machine, ctx: machine.publish(ctx, "t", b"x"), "plumtree")
    stage.until(lambda: all(message in stage.machine(node, "plumtree").received.seen for node in nodes))
    for name, built in zip(("hyparview", "plumtree"), PARTS, strict=True):
        kind = type(stage.machine(nodes[0], name))
        assert kind is type(built.build())
        assert Path(inspect.getfile(kind)) == ROOT / "plugins" / f"grove_{name}" / "machine.py"


@pytest.mark.claim("village.one-object")
def test_the_demos_profile_and_the_simulators_build_the_same_classes() -> None:
    kinds = {
        profile: [type(part.build()) for part in assemble(load(profile, environ={})).parts]
        for profile in ("residential", "super-peer", "simulation")
    }
    assert kinds["residential"] == kinds["super-peer"] == kinds["simulation"]
    assert [kind.__name__ for kind in kinds["simulation"]] == ["HyParView", "Plumtree"]


@pytest.mark.claim("village.one-object")
def test_no_protocol_loads_a_socket_a_loop_or_a_driver() -> None:
    code = (
        "import sys, grove_hyparview.machine, grove_plumtree.machine, grove_pool.machine;"
        "rooms = ('asyncio', 'socket', 'ssl', 'grove_core.drive');"
        "print(*[name for name in rooms if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
