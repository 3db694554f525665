"""Every hook of `hookspecs.py`: that it is called, when, and what its answer does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from grove_core import Node
from grove_core.config import load
from grove_core.identity import Identity
from grove_core.registry import KINDS, SPEC_HOOKS, Registry
from grove_core.specs import ROLES
from tests.core.installing import Shelf

QUIET = ("transport", "membership", "broadcast", "service")

LIFE = """
from grove_core.identity import Identity
from grove_core.specs import ProtocolSpec

happened = []

@hookimpl
def grove_identity(plan):
    happened.append(("grove_identity", plan.profile))
    return Identity.from_seed(bytes(32))

@hookimpl
def grove_node_configured(plan):
    happened.append(("grove_node_configured", plan.data.exists()))
    if plan.settings.network == "forbidden":
        raise ValueError("not on that network")

@hookimpl
def grove_node_started(node):
    happened.append(("grove_node_started", node.uptime >= 0))

@hookimpl
def grove_node_stopping(node):
    happened.append(("grove_node_stopping", node.plugin("life") is not None))
"""


@pytest.mark.parametrize(
    ("hook", "role"),
    [
        ("grove_discovery", "discovery"),
        ("grove_membership", "membership"),
        ("grove_broadcast", "broadcast"),
        ("grove_storage", "storage"),
        ("grove_consensus", "consensus"),
    ],
)
def test_the_hook_of_a_role_offers_machines_for_that_role(shelf: Shelf, hook: str, role: str):
    shelf.install("one", one=shelf.protocol("one", role))
    plugin = Registry().load("one")
    assert plugin.hooks == (hook,)
    assert list(plugin.specs) == [role]


@pytest.mark.parametrize(
    ("hook", "role", "kind"),
    [
        ("grove_transports", "transport", "TransportSpec"),
        ("grove_services", "service", "ServiceSpec"),
    ],
)
def test_transports_and_services_are_offered_alike(shelf: Shelf, hook: str, role: str, kind: str):
    source = shelf.protocol("one") + (
        f"\n@hookimpl\ndef {hook}():\n    return [{kind}(name='one', config=Config, build=Quiet)]\n"
    )
    shelf.install("one", one=source)
    assert set(Registry().load("one").specs) == {role, "broadcast"}


def test_every_role_has_its_hook():
    assert set(ROLES) < set(KINDS)
    assert len(SPEC_HOOKS) == len(KINDS) == len(ROLES) + 2


def living(shelf: Shelf, tmp_path: Path, *sets: str) -> tuple[Node, list[tuple[str, object]]]:
    """A node of one quiet machine whose plugin hears of the node's life."""
    shelf.install("life", life=shelf.protocol("life", "storage") + LIFE)
    registry = Registry()
    empty = [f"roles.{role}=[]" for role in QUIET]
    data = f"node.data={tmp_path / 'data'}"
    config = load(sets=[*empty, "roles.storage=life", data, *sets], environ={}, registry=registry)
    plan = registry.assemble(config)
    return Node(plan, registry=registry), registry.load("life").module.happened


@pytest.mark.claim("hooks.life-cycle")
def test_a_plugin_gives_the_identity_and_hears_of_the_nodes_life(shelf: Shelf, tmp_path: Path):
    node, happened = living(shelf, tmp_path)

    async def main() -> None:
        async with asyncio.timeout(20), node:
            assert node.peer == Identity.from_seed(bytes(32)).peer

    asyncio.run(main())
    assert happened == [
        ("grove_node_configured", False),
        ("grove_identity", "residential"),
        ("grove_node_started", True),
        ("grove_node_stopping", True),
    ]


def test_a_veto_comes_before_anything_has_started(shelf: Shelf, tmp_path: Path):
    node, happened = living(shelf, tmp_path, "node.network=forbidden")

    async def main() -> None:
        async with asyncio.timeout(20):
            with pytest.raises(ValueError, match="not on that network"):
                await node.start()

    asyncio.run(main())
    assert happened == [("grove_node_configured", False)]
    assert not (tmp_path / "data").exists()
