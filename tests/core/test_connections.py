"""The table of connections: gates, the choice among several, idling, trimming. No clock, no loop."""

from __future__ import annotations

from typing import Any, cast

import pytest

from grove_core.drive.connections import GRACE, Connections
from grove_core.errors import ConfigError
from grove_core.identity import Identity, peer_text
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits
from grove_core.transport import GATED, RATE_LIMITED, RESOURCE_LIMIT_EXCEEDED, Connection

RELAY = "/ip4/198.51.100.9/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit"


def peer(number: int) -> PeerId:
    return Identity.from_seed(number.to_bytes(32, "big")).peer


class Fake:
    """Just enough of a connection for the table."""

    def __init__(self, number: int, remote: str = "", inbound: bool = False) -> None:
        self.peer = peer(number)
        self.remote = Multiaddr.parse(remote or f"/ip4/8.8.{number}.8/tcp/1")
        self.inbound = inbound
        self.stream_count = 0


def opened(table: Connections, fake: Fake, now: float = 0.0) -> Connection:
    connection = cast(Connection, fake)
    if fake.inbound:
        assert table.admit(fake.remote, now) == 0
    assert table.add(connection, now) == 0
    return connection


def limits(**changes: Any) -> Limits:
    return Limits(**{"inbound_per_second": 1000.0, **changes})


def codes(table: Connections, *remotes: str, now: float = 0.0) -> list[int]:
    return [table.admit(Multiaddr.parse(remote), now) for remote in remotes]


# Gates, before expensive work (libp2p-wire.md 7.3 point 2).


@pytest.mark.claim("connections.per-ip")
def test_one_address_gets_eight_connections_pending_ones_and_dialled_ones_included() -> None:
    table = Connections(limits(per_ip=8))
    for number in range(5):
        opened(table, Fake(number, "/ip4/8.8.8.8/tcp/1", inbound=True))
    opened(table, Fake(9, "/ip4/8.8.8.8/tcp/1"))
    assert codes(table, *["/ip4/8.8.8.8/tcp/2"] * 3) == [0, 0, RESOURCE_LIMIT_EXCEEDED]
    assert codes(table, "/ip4/8.8.8.9/tcp/2") == [0]
    table.gave_up(Multiaddr.parse("/ip4/8.8.8.8/tcp/2"))
    assert codes(table, "/ip4/8.8.8.8/tcp/2") == [0]
    assert table.refused == {"per_ip": 1}


@pytest.mark.claim("connections.per-ip")
def test_an_ipv6_64_counts_as_one_address_and_loopback_is_exempt() -> None:
    table = Connections(limits(per_ip=2))
    inside = [f"/ip6/2600:1:2:3::{n}/tcp/1" for n in range(1, 4)]
    assert codes(table, *inside) == [0, 0, RESOURCE_LIMIT_EXCEEDED]
    assert codes(table, "/ip6/2600:1:2:4::1/tcp/1") == [0]
    assert codes(table, *["/ip4/127.0.0.1/tcp/1"] * 5) == [0] * 5


@pytest.mark.claim("connections.capped")
def test_beyond_the_cap_and_the_pending_handshakes_inbound_attempts_are_refused() -> None:
    table = Connections(limits(connections=4, inbound_pending=2))
    assert codes(table, "/memory/1", "/memory/2", "/memory/3") == [0, 0, RESOURCE_LIMIT_EXCEEDED]
    assert table.refused == {"pending": 1}
    for number in (1, 2):
        assert table.add(cast(Connection, Fake(number, f"/memory/{number}", inbound=True)), 0.0) == 0
    assert codes(table, "/memory/3", "/memory/4") == [0, 0]
    for number in (3, 4):
        table.add(cast(Connection, Fake(number, f"/memory/{number}", inbound=True)), 0.0)
    assert codes(table, "/memory/5") == [RESOURCE_LIMIT_EXCEEDED]
    assert table.refused == {"pending": 1, "connections": 1}


@pytest.mark.claim("connections.inbound-rate")
def test_a_flood_of_attempts_is_let_in_at_the_accepted_rate_only() -> None:
    table = Connections(limits(inbound_per_second=20.0, connections=10_000, inbound_pending=10_000))
    admitted = sum(table.admit(Multiaddr.parse("/memory/1"), n / 1000) == 0 for n in range(10_000))
    assert admitted <= 40 + 20 * 10  # burst and ten seconds
    assert table.refused["rate"] == 10_000 - admitted
    assert codes(table, "/memory/1", now=10.0) in ([0], [RATE_LIMITED])


@pytest.mark.claim("connections.denied")
def test_denied_peers_addresses_and_ranges_are_refused_in_both_directions() -> None:
    table = Connections(
        limits(denied=("10.0.0.0/8", "8.8.8.8", peer_text(peer(7)), "/ip4/9.9.9.9/udp/4001"))
    )
    assert codes(table, "/ip4/10.1.2.3/tcp/1", "/ip4/8.8.8.8/tcp/1") == [GATED, GATED]
    assert codes(table, "/ip4/9.9.9.9/udp/4001/quic-v1", "/ip4/9.9.9.9/tcp/1") == [GATED, 0]
    assert table.add(cast(Connection, Fake(7)), 0.0) == GATED
    assert len(table) == 0


def test_a_denied_entry_that_is_nothing_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"limits.denied: 'nobody'.*\n.*'/ip4/x'"):
        Connections(limits(denied=("nobody", "/ip4/x")))


# Several connections to one peer (point 7).


@pytest.mark.claim("connections.simultaneous")
def test_new_streams_use_the_oldest_direct_connection() -> None:
    table = Connections(limits())
    relayed = opened(table, Fake(1, RELAY))
    assert table.best(peer(1)) is relayed
    first = opened(table, Fake(1, "/ip4/8.8.8.8/tcp/1"))
    second = opened(table, Fake(1, "/ip4/8.8.8.8/tcp/2"))
    assert table.best(peer(1)) is first
    assert table.remove(first) is False
    assert table.best(peer(1)) is second
    assert table.remove(second) is False
    assert table.remove(relayed) is True
    assert table.best(peer(1)) is None


@pytest.mark.claim("connections.simultaneous")
def test_a_surplus_connection_is_closed_only_when_idle_also_if_its_peer_is_held() -> None:
    table = Connections(limits(idle=60.0))
    first, second = Fake(1), Fake(1)
    opened(table, first)
    opened(table, second)
    table.hold(peer(1), "raft")
    second.stream_count = 1
    assert table.idle(30.0) == []
    second.stream_count = 0
    assert table.idle(80.0) == []
    assert table.idle(90.0) == [second]


# Idling and holders.


@pytest.mark.claim("connections.idle")
def test_a_connection_is_idle_60_s_after_the_last_holder_and_the_last_stream() -> None:
    table = Connections(limits(idle=60.0))
    fake = Fake(1)
    connection = opened(table, fake)
    table.hold(peer(1), "hyparview")
    table.hold(peer(1), "application")
    assert table.idle(1000.0) == []
    table.release(peer(1), "hyparview")
    assert table.idle(2000.0) == []
    table.release(peer(1), "application")
    assert table.idle(2059.0) == []
    fake.stream_count = 1
    assert table.idle(2100.0) == []
    fake.stream_count = 0
    assert table.idle(2160.0) == [connection]


def test_holds_end_with_the_connection() -> None:
    table = Connections(limits())
    connection = opened(table, Fake(1))
    table.hold(peer(1), "raft")
    table.hold(peer(2), "raft")  # not connected: nothing to hold
    table.remove(connection)
    opened(table, Fake(1))
    assert not table.is_held(peer(1))
    assert not table.is_held(peer(2))


# Trimming (point 8).


@pytest.mark.claim("connections.trimmed")
def test_above_high_water_the_least_active_unheld_connections_go_down_to_low_water() -> None:
    table = Connections(limits(low_water=4, high_water=8))
    everybody = [opened(table, Fake(number)) for number in range(9)]
    for number in range(9):
        table.touch(peer(number), 100.0 - number)
    table.hold(peer(8), "hyparview")
    table.hold(peer(7), "settings")
    assert table.surplus(GRACE + 100) == [everybody[n] for n in (6, 5, 4, 3, 2)]
    table.remove(everybody[0])
    assert table.surplus(GRACE + 100) == []  # at high water, not above


@pytest.mark.claim("connections.trimmed")
def test_connections_younger_than_the_grace_are_spared() -> None:
    table = Connections(limits(low_water=1, high_water=2))
    old = [opened(table, Fake(number)) for number in range(2)]
    opened(table, Fake(3), now=100.0)
    opened(table, Fake(4), now=100.0)
    assert table.surplus(101.0) == old
    for connection in old:
        table.remove(connection)
    opened(table, Fake(5), now=100.0)
    assert table.surplus(101.0) == []
