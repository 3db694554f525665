"""A whole node: the order of its beginning and its end, its words about itself, its fixed peers."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from grove_core import Node
from grove_core.drive import live
from grove_core.drive.live import reachable
from grove_core.drive.store import StoreError
from grove_core.errors import (
    ConfigError,
    GroveError,
    LocalProtocolError,
    RemoteProtocolError,
    Unreachable,
)
from grove_core.identity import Identity
from grove_core.machine import Context, PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits
from grove_core.record import verify_record
from grove_core.service import LiveNode
from grove_core.specs import ServiceSpec
from grove_core.testing.memory import MemoryNetwork
from grove_core.ticket import Ticket
from grove_core.transport import SHUTDOWN
from tests.core.houses import idled, know, node, plan, run
from tests.core.probe import Note, Probe, probe
from tests.core.rogue import Rogue, until


class Nothing(msgspec.Struct, frozen=True):
    pass


class Member(Probe):
    """A probe that plays membership: joins by connecting."""

    def join(self, ctx: Context[Any], contact: PeerId) -> None:
        self.log.append(("join", contact))
        ctx.connect(contact)

    def neighbors(self) -> tuple[PeerId, ...]:
        joined = [peer for (peer,) in self.seen("join")]
        downs = [peer for (peer,) in self.seen("down")]
        return tuple(peer for peer in dict.fromkeys(joined) if joined.count(peer) > downs.count(peer))


def machine(of: Node, name: str = "probe") -> Any:
    return of.plugin(name).machine


def service(name: str, order: list[str], act: Callable[[LiveNode], None] = lambda node: None) -> Any:
    class Recorded:
        def __init__(self, node: LiveNode) -> None:
            self.node = node

        async def start(self) -> None:
            order.append(f"start {name}")
            act(self.node)

        async def stop(self) -> None:
            order.append(f"stop {name}")

    build = lambda config, node: Recorded(node)  # noqa: E731
    return ServiceSpec(name=name, config=Nothing, build=build), Nothing()


class Hooks:
    """Stands for a registry: only its hooks are used."""

    def __init__(self, order: list[str], veto: Exception | None = None, key: Identity | None = None):
        self.hooks = SimpleNamespace(
            grove_node_configured=lambda plan: self.tell(order, "configured", veto),
            grove_identity=lambda plan: key,
            grove_node_started=lambda node: self.tell(order, f"started {len(node.protocols)}"),
            grove_node_stopping=lambda node: self.tell(order, "stopping"),
        )

    def tell(self, order: list[str], what: str, error: Exception | None = None) -> None:
        order.append(what)
        if error is not None:
            raise error


# Beginning and end.


@pytest.mark.claim("node.order-of-life")
def test_a_node_begins_and_ends_in_the_order_in_which_its_rooms_need_each_other(tmp_path: Path) -> None:
    async def main() -> None:
        order: list[str] = []
        network = MemoryNetwork()

        def first(home: LiveNode) -> None:
            assert home.addresses == (Multiaddr.parse("/memory/1"),)  # transports listen
            assert home.plugin("probe").machine.log == [("start",)]  # machines run
            home.serve("/mine/1.0.0", lambda stream: None)

        wanted = plan(
            network, tmp_path, 1, probe(), services=(service("a", order, first), service("b", order))
        )
        home = Node(wanted, registry=Hooks(order))  # type: ignore[arg-type]
        async with home:
            assert home.protocols == ("/grove/probe/1.0.0", "/grove/probe/rpc/1.0.0", "/mine/1.0.0")
            assert home.plugin("a") is not home.plugin("b")
            assert home.data.stat().st_mode & 0o777 == 0o700
            kept = machine(home)
        assert order == [
            *("configured", "start a", "start b", "started 3"),
            *("stopping", "stop b", "stop a"),
        ]
        assert kept.log == [("start",), ("stop",)]
        await home.stop()
        with pytest.raises(LocalProtocolError, match="started once"):
            await home.start()

    run(main)


def test_a_veto_and_a_service_that_fails_leave_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        order: list[str] = []
        network = MemoryNetwork()
        veto = Hooks(order, GroveError("not on this machine"))
        home = Node(plan(network, tmp_path, 1), registry=veto)  # type: ignore[arg-type]
        with pytest.raises(GroveError, match="not on this machine"):
            await home.start()
        assert not (tmp_path / "1").exists()

        def fail(home: LiveNode) -> None:
            raise OSError("no port")

        services = (service("a", order), service("b", order, fail))
        home = Node(plan(network, tmp_path, 1, probe(), services=services))
        with pytest.raises(OSError, match="no port"):
            await home.start()
        assert order[-2:] == ["stop b", "stop a"]
        async with node(network, tmp_path, 1, probe()):  # folder and address are free again
            pass

    run(main)


def test_the_key_is_the_hooks_or_the_one_in_the_folder(tmp_path: Path) -> None:
    async def main() -> None:
        key = Identity.from_seed(b"k" * 32)
        hooks = Hooks([], key=key)
        home = Node(plan(MemoryNetwork(), tmp_path, 1), registry=hooks)  # type: ignore[arg-type]
        async with home:
            assert home.peer == key.peer
        peers = []
        for _ in range(2):
            async with Node(plan(MemoryNetwork(), tmp_path, 2)) as other:
                peers.append(other.peer)
        assert peers[0] == peers[1] != key.peer
        assert (tmp_path / "2" / "identity.key").stat().st_mode & 0o777 == 0o600

    run(main)


def test_two_nodes_cannot_live_in_one_folder(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            with pytest.raises(StoreError, match=r"another node .* is using the data folder"):
                await node(network, tmp_path, 1, probe()).start()
            assert machine(home).log == [("start",)]

    run(main)


@pytest.mark.claim("node.goodbyes-leave")
def test_what_machines_send_when_stopping_still_arrives_and_connections_end_with_shutdown(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 2, probe()) as other:
            async with node(network, tmp_path, 1, probe()) as home:
                know(home, other)
                await home.connect(other.peer)
                connection: Any = other.connections()[0]

                def leave(ctx: Any) -> None:
                    ctx.save("left", b"properly")
                    ctx.send(other.peer, Note("goodbye"))

                machine(home).script["stop"] = leave
            await until(lambda: machine(other).texts() == ["goodbye"])
            await until(lambda: bool(machine(other).seen("down")))
            assert connection.code == SHUTDOWN
        async with node(network, tmp_path, 1, probe()) as home:
            assert home.plugin("probe").call(lambda m, ctx: ctx.load("left")) == b"properly"

    run(main)


# What a node says of itself.


def test_wildcards_become_interfaces_and_loopback_is_kept_only_if_there_is_nothing_else() -> None:
    def texts(*listening: str) -> list[str]:
        return [str(address) for address in reachable(map(Multiaddr.parse, listening))]

    assert texts("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1") == ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]
    assert texts("/ip4/127.0.0.1/tcp/1", "/ip4/10.1.2.3/tcp/2") == ["/ip4/10.1.2.3/tcp/2"]
    expanded = texts("/ip4/0.0.0.0/udp/7/quic-v1")
    assert expanded
    assert all(text.startswith("/ip4/") and text.endswith("/udp/7/quic-v1") for text in expanded)
    assert "/ip4/0.0.0.0/udp/7/quic-v1" not in expanded
    assert len(expanded) == 1 or not any("/127." in text for text in expanded)


@pytest.mark.claim("node.record-sequence-rises")
def test_the_own_record_holds_and_its_sequence_rises_over_lives_also_with_a_clock_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        sequences = []
        for clock in (2_000_000_000.0, 1_000_000_000.0, 1_000_000_001.0):
            monkeypatch.setattr(time, "time_ns", lambda clock=clock: int(clock * 1e9))
            async with node(MemoryNetwork(), tmp_path, 1) as home:
                record = verify_record(home.record())
                assert (record.peer, record.addresses) == (home.peer, home.addresses)
                sequences.append(record.sequence)
        assert sequences == [2_000_000_000_000, 2_000_000_000_001, 2_000_000_000_002]

    run(main)


def test_announced_addresses_are_told_instead_of_the_listening_ones(tmp_path: Path) -> None:
    async def main() -> None:
        said = "/ip4/203.0.113.7/tcp/4001"
        home = node(MemoryNetwork(), tmp_path, 1, announce=(said,))
        async with home:
            assert home.addresses == (Multiaddr.parse(said),)
            assert home.listening == (Multiaddr.parse("/memory/1"),)
            assert Ticket.decode(home.ticket()).addresses == home.addresses
        with pytest.raises(ConfigError, match=r"node.announce: .*'nowhere'"):
            await node(MemoryNetwork(), tmp_path, 1, announce=("nowhere",)).start()

    run(main)


def test_an_address_that_nobody_listens_on_and_one_that_is_taken_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        with pytest.raises(ConfigError, match=r"no transport listens on /ip4/.*this node has: memory"):
            await node(network, tmp_path, 1, listen=("/ip4/127.0.0.1/tcp/0",)).start()
        async with node(network, tmp_path, 2):
            with pytest.raises(GroveError, match=r"/memory/2 is in use.*--listen"):
                await node(network, tmp_path, 3, listen=("/memory/2",)).start()

    run(main)


def test_roles_that_the_profile_leaves_empty_say_how_to_fill_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(MemoryNetwork(), tmp_path, 1, probe()) as home:
            assert home.membership is home.plugin("probe")
            with pytest.raises(LocalProtocolError, match=r"no plugin for the role 'broadcast'.*--set"):
                _ = home.broadcast
            with pytest.raises(KeyError):
                home.plugin("nobody")
        with pytest.raises(LocalProtocolError, match="has not been started"):
            _ = node(MemoryNetwork(), tmp_path, 2).membership

    run(main)


def test_who_serves_a_protocol_is_told_to_those_who_care(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(MemoryNetwork(), tmp_path, 1) as home:
            told: list[tuple[str, ...]] = []
            home.on_protocols_changed(lambda: told.append(home.protocols))
            home.serve("/x/1", lambda stream: None)
            with pytest.raises(LocalProtocolError, match="/x/1 is served already"):
                home.serve("/x/1", lambda stream: None)
            home.unserve("/x/1")
            assert told == [("/x/1",), ()]

    run(main)


# Tickets and fixed peers.


def member() -> Any:
    return probe(build=Member)


@pytest.mark.claim("node.join-by-ticket")
def test_a_ticket_leads_into_the_overlay_and_a_wrong_one_says_what_is_wrong(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with (
            node(network, tmp_path, 1, member()) as home,
            node(network, tmp_path, 2, member()) as other,
        ):
            assert await home.join(other.ticket()) == other.peer
            assert ("join", other.peer) in machine(home).log
            assert home.connection(other.peer) is not None
            swarm: Any = home._swarm
            assert swarm.table.holders(other.peer) == ("application", "probe")

            foreign = Ticket(other.peer, other.addresses, "forest").encode()
            with pytest.raises(LocalProtocolError, match=r"'forest'.*'grove'.*node.network=forest"):
                await home.join(foreign)
            expired = Ticket(other.peer, other.addresses, "grove", expires=1).encode()
            with pytest.raises(LocalProtocolError, match="expired"):
                await home.join(expired)
            with pytest.raises(LocalProtocolError, match="itself"):
                await home.join(home.ticket())
            with pytest.raises(RemoteProtocolError):
                await home.join(other.ticket()[:-4])
            gone = Ticket(Rogue(network, 9).peer, (Multiaddr.parse("/memory/9"),)).encode()
            with pytest.raises(Unreachable, match="/memory/9: nobody listens"):
                await home.join(gone)

    run(main)


@pytest.mark.claim("node.fixed-peers-kept")
def test_a_fixed_peer_is_dialled_held_joined_through_and_dialled_again_when_lost(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        limits = Limits(idle=0.1)
        other = node(network, tmp_path, 2, member())
        fixed = Multiaddr.parse("/memory/2")
        home = node(network, tmp_path, 1, member(), limits=limits, peers=(str(fixed),))
        async with home:  # before the other is there
            async with other:
                await until(lambda: ("join", other.peer) in machine(home).log)
                await until(lambda: home._swarm.table.is_holding(other.peer, "node.peers"))  # type: ignore[union-attr]
                await idled(home)  # it is held
                assert len(home.connections()) == 1
            await until(lambda: bool(machine(home).seen("down")))
            async with node(network, tmp_path, 2, member()) as back:
                await until(lambda: len(machine(home).seen("up")) >= 2)
                await until(lambda: machine(home).log.count(("join", back.peer)) == 2)

    run(main)


def test_connecting_by_address_accepts_whoever_answers_or_insists_on_a_peer(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with (
            node(network, tmp_path, 1, probe()) as home,
            node(network, tmp_path, 2, probe()) as other,
        ):
            there = other.addresses[0]
            stranger = Rogue(network).peer
            with pytest.raises(Unreachable, match="/memory/2: another peer answers"):
                await home.connect(there.with_peer(stranger))
            with pytest.raises(Unreachable, match="has no address"):
                await home.connect(PeerId(other.peer))
            connection = await home.connect(there)
            assert connection.peer == other.peer
            assert await home.connect(other.peer) is connection
            stream = await home.open_stream(other.peer, ["/grove/probe/1.0.0"])
            assert stream.connection is connection
            home.disconnect(other.peer, "enough")
            assert home.connections() == ()
            with pytest.raises(Unreachable, match="itself"):
                await home.connect(home.addresses[0])

    run(main)


def test_an_application_that_stops_waiting_for_a_dial_does_not_end_it_for_others(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with (
            node(network, tmp_path, 1, probe()) as home,
            node(network, tmp_path, 2, probe()) as other,
        ):
            know(home, other)
            impatient = asyncio.ensure_future(home.connect(other.peer))
            home.plugin("probe").call(lambda m, ctx: ctx.connect(other.peer))
            await asyncio.sleep(0)
            impatient.cancel()
            await until(lambda: machine(home).seen("up") == [(other.peer,)])
            assert machine(home).seen("failure") == []

    run(main)


# Cheap to import.


@pytest.mark.claim("kernel.lazy-node")
def test_importing_the_kernel_loads_neither_asyncio_nor_sqlite_nor_plugins() -> None:
    code = (
        "import sys, grove_core; "
        "names = ('asyncio', 'sqlite3', 'cryptography', 'msgspec', 'aioquic', 'zmq', 'pluggy'); "
        "print([name for name in names if name in sys.modules]); "
        "grove_core.Node; print('aioquic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nFalse\n"


def test_a_node_from_a_profile_has_what_was_set(tmp_path: Path) -> None:
    home = Node.from_profile("residential", data=tmp_path, set={"limits.dials": 3})
    assert (home.plan.profile, home.plan.data, home.plan.limits.dials) == ("residential", tmp_path, 3)
    with pytest.raises(ConfigError, match="dails"):
        Node.from_profile("residential", data=tmp_path, set={"limits.dails": 3})


def test_counters_tell_what_was_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        limits = Limits(connections=1, high_water=1, low_water=1)
        async with node(network, tmp_path, 1, probe(), limits=limits) as home:
            await Rogue(network, 50).meet(home)
            with pytest.raises(GroveError, match="refused"), caplog.at_level(logging.ERROR):
                await Rogue(network, 51).meet(home)
            assert home.counters["refused.connections"] == 1
            assert home.counters["opened.inbound"] == 1
            assert live.FAREWELL <= 1.0

    run(main)
