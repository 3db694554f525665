"""The engine in virtual time: handshake, credit, loss, larger datagrams, what a peer can make it hold.

RFC 9000, 9001, 9002 and 8899 are aioquic's to keep; here stands what we changed or depend on.
"""

from __future__ import annotations

from random import Random

import pytest
from aioquic import tls
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from grove_quic import wire
from grove_quic.config import Config
from grove_quic.engine import (
    Ended,
    Handshaken,
    IdIssued,
    Initial,
    StreamData,
    StreamOpened,
    StreamReset,
    StreamsAllowed,
    StreamStopped,
)
from grove_quic.over_aioquic import MAX_EARLY_CRYPTO, MAX_UNACKNOWLEDGED

from tests.fuzz import mutations, rounds
from tests.plugins.quic.link import CLIENT, SERVER, Link

WINDOW = 262_144


def test_both_sides_show_exactly_one_certificate() -> None:
    link = Link()
    (here,), (there,) = link.got(Handshaken), link.got(Handshaken, at_server=True)
    assert len(here.certificates) == 1
    assert len(there.certificates) == 1
    assert here.certificates != there.certificates


def test_handshake_takes_one_round_trip_for_the_dialler() -> None:
    link = Link(handshaken=False, latency=0.05)
    began = link.now
    link.run(lambda: link.got(Handshaken))
    assert link.now - began == pytest.approx(0.1, abs=1e-6)


def test_idle_timeout_is_the_smaller_of_both_wishes() -> None:
    assert Link(Config(idle_timeout=7)).client.idle_timeout == 7


def test_silence_ends_a_connection_after_the_idle_timeout() -> None:
    link = Link(Config(idle_timeout=7))
    link.passes = lambda data, at, upstream: False
    began = link.now
    link.run(lambda: link.ended())
    assert link.now - began == pytest.approx(7, abs=0.6)
    assert "Idle timeout" in link.got(Ended)[0].reason


def test_a_ping_keeps_a_connection_alive() -> None:
    link = Link(Config(idle_timeout=2))
    for _ in range(10):
        link.client.ping()
        link.settle(1.0)
    assert link.ended() is None


def test_ids_are_issued_after_the_handshake_and_route_to_us() -> None:
    link = Link()
    ids = {event.id for event in link.got(IdIssued, at_server=True)}
    assert len(ids) >= 3
    assert all(len(each) == 8 for each in ids)


# --- streams


def test_stream_ids_are_never_given_twice() -> None:
    link = Link()
    assert [link.client.open_stream() for _ in range(3)] == [0, 4, 8]
    assert link.there.open_stream() == 1


def test_opening_a_stream_opens_all_lower_ones() -> None:
    link = Link()
    for _ in range(3):
        stream = link.client.open_stream()
    assert stream is not None
    link.client.write(stream, b"third")
    link.run(lambda: link.data(at_server=True) == b"third")
    assert [event.stream for event in link.got(StreamOpened, at_server=True)] == [0, 4, 8]


def test_streams_beyond_the_limit_wait_until_one_is_over() -> None:
    link = Link(streams=8)
    streams = [link.client.open_stream() for _ in range(9)]
    assert streams[-1] is None
    for stream in streams[:8]:
        assert stream is not None
        link.client.write(stream, b"x", True)
    link.run(lambda: sum(e.end for e in link.got(StreamData, at_server=True)) == 8)
    for event in link.got(StreamOpened, at_server=True):
        link.there.write(event.stream, b"", True)
    link.run(lambda: link.got(StreamsAllowed))
    assert link.client.open_stream() == 32


def test_reset_and_stop_carry_their_codes() -> None:
    link = Link()
    one, two = link.client.open_stream(), link.client.open_stream()
    assert one is not None
    assert two is not None
    link.client.write(one, b"a")
    link.client.write(two, b"b")
    link.client.reset(one, 0x1001)
    link.client.stop(two, 0x1004)
    link.run(lambda: link.got(StreamReset, at_server=True) and link.got(StreamStopped, at_server=True))
    assert link.got(StreamReset, at_server=True) == [StreamReset(0, 0x1001)]
    assert link.got(StreamStopped, at_server=True) == [StreamStopped(4, 0x1004)]


def test_application_close_and_tls_alert_arrive_as_what_they_are() -> None:
    link = Link()
    link.client.end(0x1006, "bye")
    link.run(lambda: link.ended(at_server=True))
    assert link.ended(at_server=True) == Ended(0x1006, True, "bye")
    link = Link()
    link.there.fail(42, "bad certificate")
    link.run(lambda: link.ended())
    assert link.ended() == Ended(0x100 + 42, False, "bad certificate")


def test_a_long_reason_is_cut_so_that_the_close_can_leave() -> None:
    link = Link()
    link.client.end(1, "é" * 1000)
    link.run(lambda: link.ended(at_server=True))
    ended = link.ended(at_server=True)
    assert ended is not None
    assert ended.reason == "é" * 100


def test_a_close_that_was_lost_is_said_again_to_whoever_goes_on_talking() -> None:
    link = Link()
    link.passes = lambda data, at, upstream: False
    link.client.end(0x1006, "bye")
    link._move(link.client, upstream=True)
    link.passes = lambda data, at, upstream: True
    link.there.ping()
    link.run(lambda: link.ended(at_server=True))
    assert link.ended(at_server=True) == Ended(0x1006, True, "bye")


def test_a_close_is_repeated_ever_more_rarely() -> None:
    link = Link()
    link.client.end(0, "")
    (close,) = link.client.poll_out(link.now)
    again = 0
    for _ in range(100):
        link.client.datagram_in(b"\x40" + bytes(30), SERVER, link.now)
        again += len(link.client.poll_out(link.now))
    assert again == 7  # after 1, 2, 4, … 64 datagrams
    assert close[1] == SERVER


def test_a_closed_engine_is_finished_after_its_closing_period() -> None:
    link = Link()
    link.client.end(0, "")
    link.run(lambda: link.client.finished and link.there.finished)
    assert link.client.timer() is None


# --- credit


@pytest.mark.claim("quic.credit-follows-the-reader")
def test_a_sender_stops_at_the_window_and_resumes_when_the_reader_reads() -> None:
    link = Link(Config(stream_window=WINDOW, connection_window=4 * WINDOW), reads=False)
    stream = link.client.open_stream()
    assert stream is not None
    link.client.write(stream, bytes(1_000_000), True)
    link.settle(5)
    assert len(link.data(at_server=True)) == WINDOW
    assert link.client.unsent(stream) == 1_000_000 - WINDOW
    link.there.grant(stream, WINDOW)
    link.settle(5)
    assert len(link.data(at_server=True)) == 2 * WINDOW
    link.reads = True
    link.there.grant(stream, WINDOW)
    link.run(lambda: len(link.data(at_server=True)) == 1_000_000)


@pytest.mark.claim("quic.credit-follows-the-reader")
def test_all_streams_together_stop_at_the_connection_window() -> None:
    link = Link(Config(stream_window=WINDOW, connection_window=2 * WINDOW), reads=False)
    streams = [link.client.open_stream() for _ in range(5)]
    for stream in streams:
        assert stream is not None
        link.client.write(stream, bytes(WINDOW))
    link.settle(5)
    assert len(link.data(at_server=True)) == 2 * WINDOW


def test_credit_of_a_reset_stream_returns_to_the_connection() -> None:
    link = Link(Config(stream_window=WINDOW, connection_window=WINDOW), reads=False)
    for _ in range(8):
        stream = link.client.open_stream()
        assert stream is not None
        link.client.write(stream, bytes(WINDOW))
        link.settle(2)
        assert link.client.unsent(stream) == 0, "the connection ran out of credit"
        link.client.reset(stream, 0)
        link.settle(1)
        link.there.reset(stream, 0)
        link.there.release(stream)
        link.settle(1)


def test_what_is_over_is_forgotten_on_both_sides() -> None:
    link = Link()
    for _ in range(300):
        stream = link.client.open_stream()
        assert stream is not None
        link.client.write(stream, b"ping", True)
        link.run(
            lambda s=stream: any(e.stream == s and e.end for e in link.got(StreamData, at_server=True))
        )
        link.there.write(stream, b"pong", True)
        link.run(lambda s=stream: any(e.stream == s for e in link.got(StreamData)))
    link.settle(2)
    for engine in (link.client, link.there):
        assert len(engine._streams) == 0
        assert engine.held == {}
        assert engine.ready == {}


@pytest.mark.parametrize("seed", range(4))
def test_every_byte_arrives_in_order_over_a_line_that_loses_a_tenth(seed: int) -> None:
    rng = Random(seed)
    print("seed", seed)
    link = Link(passes=lambda data, at, upstream: rng.random() > 0.1, local=bool(seed % 2))
    payload = rng.randbytes(400_000)
    up, down = link.client.open_stream(), link.there.open_stream()
    assert up is not None
    assert down is not None
    link.client.write(up, payload, True)
    link.there.write(down, payload[::-1], True)
    link.run(lambda: len(link.data(at_server=True)) + len(link.data(at_server=False)) == 800_000, 600)
    assert link.data(at_server=True) == payload
    assert link.data(at_server=False) == payload[::-1]


def test_a_stream_that_is_served_does_not_starve_the_others() -> None:
    link = Link(local=False)
    big, small = link.client.open_stream(), link.client.open_stream()
    assert big is not None
    assert small is not None
    link.client.write(big, bytes(500_000))
    link.client.write(small, b"urgent")
    link.run(lambda: any(e.stream == small for e in link.got(StreamData, at_server=True)))
    assert len(link.data(at_server=True)) < 50_000


# --- datagram sizes: RFC 8899


def test_datagrams_stay_at_1200_bytes_until_there_is_much_to_send() -> None:
    link = Link()
    stream = link.client.open_stream()
    assert stream is not None
    link.client.write(stream, bytes(3000))
    link.run(lambda: len(link.data(at_server=True)) == 3000)
    assert max(link.sizes) == 1200


def test_a_probe_that_arrives_makes_datagrams_larger() -> None:
    link = Link()
    stream = link.client.open_stream()
    assert stream is not None
    link.client.write(stream, bytes(300_000))
    link.run(lambda: len(link.data(at_server=True)) == 300_000)
    assert link.sizes.count(1452) > 100
    assert max(link.sizes) == 1452


def test_probes_that_are_lost_are_no_congestion_and_the_next_smaller_size_is_tried() -> None:
    link = Link(local=True, passes=lambda data, at, upstream: len(data) <= 1400)
    stream = link.client.open_stream()
    assert stream is not None
    link.client.write(stream, bytes(2_000_000))
    link.run(lambda: len(link.data(at_server=True)) == 2_000_000)
    assert max(link.sizes) == 1400
    assert link.client._loss._cc.ssthresh is None or link.client._loss._cc.congestion_window > 100_000


def test_a_path_that_swallows_large_datagrams_later_falls_back_to_1200() -> None:
    link = Link()
    stream = link.client.open_stream()
    assert stream is not None
    link.client.write(stream, bytes(300_000))
    link.run(lambda: len(link.data(at_server=True)) == 300_000)
    link.passes = lambda data, at, upstream: len(data) <= 1200
    link.client.write(stream, bytes(300_000))
    link.run(lambda: len(link.data(at_server=True)) == 600_000, 120)


def test_a_peer_that_moves_is_followed_and_its_new_path_starts_small() -> None:
    link = Link()
    stream = link.there.open_stream()
    assert stream is not None
    link.there.write(stream, bytes(300_000))
    link.run(lambda: len(link.data(at_server=False)) == 300_000)
    assert link.there._max_datagram_size == 1452
    link.client_at = ("192.0.2.77", 7)
    link.client.ping()
    link.settle(0.3)
    assert link.there.remote == ("192.0.2.77", 7)
    assert link.there._max_datagram_size == 1200
    link.there.write(stream, bytes(300_000))
    link.run(lambda: len(link.data(at_server=False)) == 600_000)
    assert link.there._max_datagram_size == 1452


# --- what a peer can make us hold


def test_a_congestion_window_that_is_not_used_does_not_grow() -> None:
    link = Link()
    stream = link.client.open_stream()
    assert stream is not None
    for _ in range(500):
        link.client.write(stream, bytes(100))
        link.settle(0.05)
    assert link.client._loss._cc.congestion_window <= 13_000


def test_early_handshake_data_is_bounded() -> None:
    link = Link()
    client = link.client

    def far_ahead(builder: object, *_: object) -> None:
        buf = builder.start_frame(QuicFrameType.CRYPTO, 64)  # type: ignore[attr-defined]
        buf.push_uint_var(MAX_EARLY_CRYPTO)
        buf.push_uint_var(1)
        buf.push_bytes(b"x")

    client._write_ping_frame = far_ahead  # type: ignore[method-assign,assignment]
    client.ping()
    link.run(lambda: link.ended(at_server=True))
    ended = link.ended(at_server=True)
    assert ended is not None
    assert ended.code == 0xD  # CRYPTO_BUFFER_EXCEEDED
    assert "limit 65536" in ended.reason


@pytest.mark.claim("quic.hostile-peers-cost-a-bound")
def test_a_peer_that_never_acknowledges_cannot_make_us_remember_without_end() -> None:
    link = Link()
    server = link.there
    # A client that pings for ever and whose acknowledgements never arrive.
    link.client._write_ack_frame = lambda *_, **__: setattr(  # type: ignore[method-assign]
        link.client._spaces[tls.Epoch.ONE_RTT], "ack_at", None
    )
    for _ in range(MAX_UNACKNOWLEDGED + 500):
        link.client.ping()
        link.settle(0.03)
    assert len(server._spaces[tls.Epoch.ONE_RTT].sent_packets) <= MAX_UNACKNOWLEDGED + 1


def test_too_many_streams_end_the_connection_not_the_node() -> None:
    link = Link(streams=4)
    link.client._remote_max_streams_bidi = 100
    streams = [link.client.open_stream() for _ in range(6)]
    for stream in streams:
        assert stream is not None
        link.client.write(stream, b"x")
    link.run(lambda: link.ended(at_server=True))
    ended = link.ended(at_server=True)
    assert ended is not None
    assert (ended.code, ended.application) == (0x4, False)  # STREAM_LIMIT_ERROR


def test_unidirectional_streams_are_refused() -> None:
    link = Link()
    link.client._remote_max_streams_uni = 1
    link.client.send_stream_data(2, b"x")
    link.client.ready[2] = link.client._streams[2]
    link.client.held[2] = [0, 0]
    link.run(lambda: link.ended(at_server=True))
    ended = link.ended(at_server=True)
    assert ended is not None
    assert ended.code == 0x4


# --- before a connection: Retry


def test_retry_proves_the_address_and_the_handshake_goes_on() -> None:
    link = Link(handshaken=False)
    first = link.heap[0][3]
    link.heap.clear()
    packet = wire.initial(first)
    assert isinstance(packet, Initial)
    retry = link.engines[1].retry(packet, ("192.0.2.1", 1), link.now)
    assert len(retry) < len(first), "an answer to an unproven address is shorter than the question"
    link.client.datagram_in(retry, SERVER, link.now)
    link.run(lambda: link.got(Handshaken) and link.got(Handshaken, at_server=True))
    again = wire.initial(link.first)
    assert isinstance(again, Initial)
    assert again.token


def test_a_token_of_another_address_is_none() -> None:
    link = Link(handshaken=False)
    packet = wire.initial(link.heap[0][3])
    assert isinstance(packet, Initial)
    retry = link.engines[1].retry(packet, ("192.0.2.9", 1), link.now)
    link.client.datagram_in(retry, SERVER, link.now)
    data, _ = link.client.poll_out(link.now)[0]
    again = wire.initial(data)
    assert isinstance(again, Initial)
    assert link.engines[1].accept(again, ("192.0.2.1", 1), link.now) is None
    assert link.engines[1].accept(again, ("192.0.2.9", 1), link.now) is not None


def test_a_token_that_we_did_not_make_is_none_of_ours() -> None:
    """quinn shows what another server's NEW_TOKEN gave it: under libp2p all have the same name."""
    link = Link(handshaken=False)
    packet = wire.initial(link.heap[0][3])
    assert isinstance(packet, Initial)
    link.client.datagram_in(link.engines[0].retry(packet, ("192.0.2.1", 1), link.now), SERVER, link.now)
    data, _ = link.client.poll_out(link.now)[0]
    again = wire.initial(data)
    assert isinstance(again, Initial)
    assert link.engines[0].is_ours(again.token)
    assert not link.engines[1].is_ours(again.token)
    assert not link.engines[1].is_ours(b"")
    assert not link.engines[1].is_ours(bytes(64))


def test_a_refused_client_learns_it_at_once() -> None:
    link = Link(handshaken=False)
    first = link.heap[0][3]
    packet = wire.initial(first)
    assert isinstance(packet, Initial)
    refusal = link.engines[1].refuse(packet, 0x2)
    assert len(refusal) < len(first)
    link.client.datagram_in(refusal, SERVER, link.now)
    assert link.client.events() == [Ended(0x2, False, "")]


# --- a proven peer that sends nonsense


def frames() -> list[bytes]:
    """One good example of most frames, as a client sends them (RFC 9000 section 19)."""
    return [
        bytes.fromhex(text)
        for text in (
            "01",  # PING
            "02 0a 00 00 05",  # ACK
            "03 0a 00 01 02 00 01 01 01 01",  # ACK with ranges and ECN
            "04 00 01 05",  # RESET_STREAM
            "05 01 07",  # STOP_SENDING
            "06 00 03 616263",  # CRYPTO
            "0f 04 00 05 68656c6c6f",  # STREAM with offset, length and end
            "0a 08 03 616263",
            "0a 4190 01 61",
            "10 80100000",  # MAX_DATA
            "11 01 80100000",  # MAX_STREAM_DATA
            "12 40ff",  # MAX_STREAMS
            "14 05 15 00 05 16 05 17 05",  # …_BLOCKED
            "18 05 02 08 0102030405060708 00112233445566778899aabbccddeeff",  # NEW_CONNECTION_ID
            "19 02",  # RETIRE_CONNECTION_ID
            "1a 0011223344556677 1b 0011223344556677",  # PATH_CHALLENGE, PATH_RESPONSE
            "1c 00 00 03 616263",  # CONNECTION_CLOSE
            "1d 01 03 616263",
            "1e",  # HANDSHAKE_DONE
            "30 6162",  # DATAGRAM
        )
    ]


def packet_of(link: Link, payload: bytes) -> bytes:
    """A 1-RTT packet of the client with any payload."""
    client = link.client
    builder = QuicPacketBuilder(
        host_cid=client.host_cid,
        is_client=True,
        max_datagram_size=1200,
        packet_number=client._packet_number,
        peer_cid=client._peer_cid.cid,
        version=1,
    )
    builder.start_packet(QuicPacketType.ONE_RTT, client._cryptos[tls.Epoch.ONE_RTT])
    builder._buffer.push_bytes(payload[:1000].ljust(4, b"\0"))
    client._packet_number += 1
    (datagram,), _ = builder.flush()
    return datagram


@pytest.mark.claim("quic.hostile-peers-cost-a-bound")
def test_mutated_frames_of_a_proven_peer_cost_only_its_own_connection() -> None:
    seed, ends = 3, 0
    corpus = frames()
    corpus += [b"".join(corpus[6:12]), b"".join(corpus[:5])]
    link = Link()
    for index, payload in enumerate(mutations(seed, corpus, rounds(600))):
        server = link.there
        try:
            server.datagram_in(packet_of(link, payload), CLIENT, link.now)
            for event in server.events():
                if isinstance(event, StreamOpened):
                    server.write(event.stream, b"hello", True)
                if isinstance(event, StreamData) and event.data:
                    server.grant(event.stream, len(event.data))
            server.poll_out(link.now)
            link.now += 0.01
            if (at := server.timer()) is not None and at <= link.now:
                server.timer_fired(link.now)
        except Exception as error:
            raise AssertionError(f"seed {seed}, round {index}: {payload.hex()}") from error
        assert len(server._streams) <= 256 + 1
        if server.told:
            ends += 1
            link = Link()
    assert ends > 0, "nothing was ever refused: the mutations do not arrive"
