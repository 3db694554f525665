"""Reading packets without keys (RFC 8999, RFC 9000 17.2), the pacer, and path MTU (RFC 8899)."""

from __future__ import annotations

import struct

import pytest
from grove_quic import wire
from grove_quic.engine import Initial
from grove_quic.mtu import PathMtu
from grove_quic.pacing import TICK, Pacer
from grove_quic.wire import SMALLEST_INITIAL

from tests.fuzz import survives

CID = bytes(range(8))
SOURCE = b"source"


def long_header(first: int = 0xC0, version: int = 1, token: bytes = b"", size: int = 1200) -> bytes:
    ids = bytes((len(CID),)) + CID + bytes((len(SOURCE),)) + SOURCE
    head = struct.pack(">BI", first, version) + ids + bytes((len(token),)) + token + b"\x44\x00"
    return head.ljust(size, b"\0")


def test_short_headers_carry_the_id_we_chose() -> None:
    assert wire.destination(b"\x40" + CID + b"rest") == CID


def test_long_headers_say_how_long_their_id_is() -> None:
    assert wire.destination(long_header()) == CID


def test_datagrams_without_the_fixed_bit_are_no_quic() -> None:
    assert wire.destination(b"\x00" + CID + b"rest") is None
    assert wire.destination(long_header(first=0x80)) is None


def test_version_negotiation_may_lack_the_fixed_bit() -> None:
    assert wire.destination(long_header(first=0x80, version=0)) == CID


def test_an_initial_gives_its_ids_and_its_token() -> None:
    assert wire.initial(long_header(token=b"proof")) == Initial(CID, SOURCE, b"proof")


@pytest.mark.parametrize(
    "data",
    [
        long_header(size=1199),
        long_header(first=0xE0),  # a Handshake packet
        long_header(version=0),
        b"\x40".ljust(1200, b"\0"),
        b"",
    ],
)
def test_what_cannot_begin_a_connection_is_dropped(data: bytes) -> None:
    assert wire.initial(data) is None


def test_an_unknown_version_is_answered_with_ours_and_swapped_ids() -> None:
    data = long_header(version=0x0A0A0A0A)
    assert wire.initial(data) == 0x0A0A0A0A
    answer = wire.version_negotiation(data, 0)
    assert answer is not None
    assert answer[1:5] == b"\0\0\0\0"
    assert wire.destination(answer) == SOURCE
    assert answer.endswith(b"\x00\x00\x00\x01")
    assert len(answer) < len(data)


def test_mutated_packets_never_make_the_readers_raise() -> None:
    def read(data: bytes) -> None:
        wire.destination(data)
        packet = wire.initial(data)
        if isinstance(packet, int):
            wire.version_negotiation(data, 255)

    corpus = [long_header(), long_header(token=b"t" * 60), long_header(version=7), b"\x40" + CID]
    survives(read, seed=11, corpus=corpus)


# --- pacing: RFC 9002 section 7.7


def test_the_initial_window_leaves_at_once() -> None:
    assert Pacer(1200, 1 << 18).next_send_time(0.0) is None


def test_a_bucket_that_is_empty_asks_for_a_whole_tick_at_least() -> None:
    pacer = Pacer(1200, 1 << 18)
    pacer.update_rate(congestion_window=12_000, smoothed_rtt=0.1)
    while pacer.next_send_time(5.0) is None:
        pacer.sent(1200)
    at = pacer.next_send_time(5.0)
    assert at is not None
    assert at >= 5.0 + TICK
    assert pacer.next_send_time(at) is None


def test_over_time_the_rate_is_a_quarter_above_the_window_per_round_trip() -> None:
    pacer = Pacer(1200, 1 << 18)
    pacer.update_rate(congestion_window=120_000, smoothed_rtt=0.1)
    now, sent = 0.0, 0
    while now < 10:
        at = pacer.next_send_time(now)
        if at is None:
            pacer.sent(1200)
            sent += 1200
        else:
            now = at
    assert sent / 10 == pytest.approx(1.25 * 120_000 / 0.1, rel=0.02)


def test_a_burst_is_bounded_whatever_the_rate() -> None:
    pacer = Pacer(1200, 100_000)
    pacer.update_rate(congestion_window=10_000_000, smoothed_rtt=0.001)
    pacer.next_send_time(1.0)
    sent = 0
    while pacer.next_send_time(1.0) is None:
        pacer.sent(1200)
        sent += 1200
    assert sent <= 101_200


# --- mtu.py


def test_a_size_that_is_lost_twice_gives_way_to_the_next_smaller_step() -> None:
    mtu = PathMtu(16_000)
    tried = []
    while (size := mtu.probe(SMALLEST_INITIAL)) is not None:
        assert mtu.probe(SMALLEST_INITIAL) is None, "one probe at a time"
        tried.append(size)
        mtu.probed(size, arrived=False)
    assert tried == [16_000, 16_000, 1452, 1452, 1400, 1400, 1280, 1280]


def test_a_peer_that_moved_is_probed_anew_within_what_it_takes_and_a_black_hole_never_again() -> None:
    mtu = PathMtu(16_000)
    mtu.limit(1400)
    assert mtu.probe(SMALLEST_INITIAL) == 1400
    mtu.probed(1400, arrived=True)
    assert mtu.probe(1400) is None
    mtu.moved()
    assert mtu.probe(SMALLEST_INITIAL) == 1400
    mtu.probed(1400, arrived=True)
    mtu.lost_all()
    assert mtu.probe(SMALLEST_INITIAL) is None
