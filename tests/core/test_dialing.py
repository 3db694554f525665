"""Which addresses, when, and when not again: all in virtual time."""

from __future__ import annotations

import pytest

from grove_core.drive.dialing import (
    MAX_ADDRESSES,
    PRIVATE_STAGGER,
    PUBLIC_STAGGER,
    RELAY_DELAY,
    Backoff,
    Pace,
    place,
    plan,
)
from grove_core.multiaddr import Multiaddr

RELAY = "/ip4/198.51.100.9/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit"


def rank(address: Multiaddr) -> int | None:
    if address.is_circuit:
        return 100
    if address.is_quic:
        return 0
    if address.is_tcp:
        return 10
    return 50 if address.value("ws") is not None else None


def planned(*texts: str) -> list[tuple[float, str]]:
    return [(one.delay, str(one.address)) for one in plan(map(Multiaddr.parse, texts), rank)]


# The plan: happy eyeballs with go-libp2p's numbers (libp2p-wire.md 2.8).


@pytest.mark.claim("dialing.happy-eyeballs")
def test_quic_goes_before_tcp_and_ipv6_before_ipv4() -> None:
    assert planned(
        "/ip4/8.8.8.8/tcp/1",
        "/ip4/8.8.8.8/udp/1/quic-v1",
        "/ip6/2600::1/tcp/1",
        "/ip6/2600::1/udp/1/quic-v1",
    ) == [
        (0.0, "/ip6/2600::1/udp/1/quic-v1"),
        (PUBLIC_STAGGER, "/ip4/8.8.8.8/udp/1/quic-v1"),
        (2 * PUBLIC_STAGGER, "/ip6/2600::1/tcp/1"),
        (3 * PUBLIC_STAGGER, "/ip4/8.8.8.8/tcp/1"),
    ]


@pytest.mark.claim("dialing.happy-eyeballs")
def test_private_addresses_are_staggered_by_30_ms_and_do_not_wait_for_public_ones() -> None:
    assert planned("/ip4/8.8.8.8/tcp/1", "/ip4/192.168.1.2/tcp/1", "/ip4/192.168.1.3/tcp/1") == [
        (0.0, "/ip4/192.168.1.2/tcp/1"),
        (0.0, "/ip4/8.8.8.8/tcp/1"),
        (PRIVATE_STAGGER, "/ip4/192.168.1.3/tcp/1"),
    ]


@pytest.mark.claim("dialing.happy-eyeballs")
def test_relays_wait_half_a_second_if_there_is_a_direct_way_and_not_otherwise() -> None:
    assert planned(RELAY, "/ip4/8.8.8.8/tcp/1") == [(0.0, "/ip4/8.8.8.8/tcp/1"), (RELAY_DELAY, RELAY)]
    assert planned(RELAY) == [(0.0, RELAY)]


def test_other_transports_wait_a_second_behind_quic_and_tcp() -> None:
    assert planned("/ip4/8.8.8.8/tcp/2/ws", "/ip4/8.8.8.8/tcp/1") == [
        (0.0, "/ip4/8.8.8.8/tcp/1"),
        (1.0, "/ip4/8.8.8.8/tcp/2/ws"),
    ]


def test_what_nobody_dials_is_left_out_and_the_rest_is_bounded() -> None:
    assert planned("/ip4/8.8.8.8/udp/1/webrtc-direct") == []
    assert len(planned(*(f"/ip4/8.8.8.8/tcp/{port}" for port in range(1, 100)))) == MAX_ADDRESSES
    assert len(planned("/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/tcp/1")) == 1


def test_places() -> None:
    def where(text: str) -> tuple[str, str]:
        found = place(Multiaddr.parse(text))
        return found.reach, found.source

    assert where("/ip4/127.0.0.1/tcp/1") == ("local", "")
    assert where("/ip6/::1/tcp/1") == ("local", "")
    assert where("/memory/7") == ("local", "")
    assert where("/ip4/10.0.0.9/tcp/1") == ("private", "10.0.0.9")
    assert where("/ip4/8.8.8.8/udp/1/quic-v1") == ("public", "8.8.8.8")
    assert where("/ip6/2600:1:2:3:4::5/tcp/1") == ("public", "2600:1:2:3::/64")
    assert where("/ip6/::ffff:8.8.8.8/tcp/1") == ("public", "8.8.8.8")  # wire pitfall 10
    assert where("/dns/example.org/tcp/1") == ("public", "")


# The pace (ecosystem.md G6: 2 dials per second sustained).


@pytest.mark.claim("dialing.paced")
def test_after_the_burst_dials_go_at_the_sustained_rate_in_the_order_they_were_asked_for() -> None:
    pace = Pace(rate=2.0, burst=16)
    now = 1000.0
    starts = [now + pace.reserve(now) for _ in range(40)]
    assert starts[:16] == [now] * 16
    assert starts[16:] == [now + 0.5 * n for n in range(1, 25)]


@pytest.mark.claim("dialing.paced")
def test_whatever_the_demand_no_minute_has_more_than_burst_and_rate() -> None:
    pace = Pace(rate=2.0, burst=16)
    starts: list[float] = []
    now = 0.0
    while now < 300.0:  # ten wishes per second for five minutes, taken only when the bucket has one
        if pace.take(now):
            starts.append(now)
        now += 0.1
    for begin in range(0, 240):
        assert sum(begin <= start < begin + 60 for start in starts) <= 16 + 2 * 60
    assert len(starts) >= 2 * 290


def test_a_token_given_back_is_used_by_the_next() -> None:
    pace = Pace(rate=1.0, burst=1)
    assert pace.reserve(0.0) == 0.0
    assert pace.reserve(0.0) == 1.0
    pace.give_back()
    assert pace.reserve(0.0) == 1.0


# Backoff.


@pytest.mark.claim("dialing.backoff")
def test_failures_are_left_alone_for_5_s_and_ever_longer_up_to_5_minutes() -> None:
    backoff = Backoff()
    assert backoff.wait("k", 0.0) == 0.0
    assert [backoff.failed("k", 0.0) for _ in range(5)] == [5.0, 6.0, 9.0, 14.0, 21.0]
    assert backoff.wait("k", 20.0) == 1.0
    assert backoff.wait("k", 22.0) == 0.0
    for _ in range(100):
        backoff.failed("k", 0.0)
    assert backoff.wait("k", 0.0) == 300.0
    backoff.forget("k")
    assert backoff.failed("k", 0.0) == 5.0


def test_the_memory_of_failures_is_bounded() -> None:
    backoff = Backoff(limit=10)
    for n in range(1000):
        backoff.failed(n, 0.0)
    assert [n for n in range(1000) if backoff.wait(n, 0.0)] == list(range(990, 1000))
