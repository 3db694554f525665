"""yamux as in libp2p/specs yamux/README.md, with what go, js and rust do: libp2p-wire.md 2.5."""

from __future__ import annotations

import struct
from contextlib import suppress
from random import Random

import pytest
from grove_libp2p.yamux import (
    HEADER,
    MAX_OWED,
    REFUSED,
    WINDOW,
    DataReceived,
    Event,
    Pong,
    StreamFinished,
    StreamOpened,
    StreamWasReset,
    WentAway,
    Yamux,
)

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from tests.fuzz import mutations, rounds

DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + body


def data(stream: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, len(body), body)


def drain(machine: Yamux) -> bytes:
    """Everything the machine wants to send."""
    out = b""
    while pieces := machine.take(100_000):
        out += b"".join(pieces)
    return out


def frames(wire: bytes) -> list[tuple[int, int, int, int]]:
    """(type, flags, stream, length) of each frame; bodies are skipped."""
    found, at = [], 0
    while at < len(wire):
        version, kind, flags, stream, length = struct.unpack_from(">BBHII", wire, at)
        assert version == 0
        found.append((kind, flags, stream, length))
        at += HEADER + (length if kind == DATA else 0)
    assert at == len(wire)
    return found


def events(machine: Yamux) -> list[Event]:
    found, machine.events = machine.events, []
    return found


def pass_on(sender: Yamux, receiver: Yamux) -> list[Event]:
    receiver.receive(drain(sender))
    return events(receiver)


def sides(**options: int) -> tuple[Yamux, Yamux]:
    return Yamux(client=True, **options), Yamux(client=False, **options)


# --- opening and closing ---------------------------------------------------------------------------


def test_client_ids_are_odd_and_server_ids_even() -> None:
    client, server = sides()
    assert [client.open() for _ in range(3)] == [1, 3, 5]
    assert [server.open() for _ in range(3)] == [2, 4, 6]


def test_syn_rides_on_the_first_bytes_and_ack_on_the_first_answer() -> None:
    client, server = sides()
    stream = client.open()
    client.send(stream, b"hello")
    wire = drain(client)
    assert wire == data(1, b"hello", SYN)
    server.receive(wire)
    assert events(server) == [StreamOpened(1), DataReceived(1, b"hello")]
    server.send(1, b"hi")
    assert drain(server) == data(1, b"hi", ACK)


def test_an_open_without_bytes_is_a_window_update_and_so_is_its_ack() -> None:  # as go opens
    client, server = sides()
    client.open()
    assert pass_on(client, server) == [StreamOpened(1)]
    assert frames(drain(server)) == [(UPDATE, ACK, 1, 0)]


def test_both_sides_finish_and_the_stream_is_forgotten() -> None:
    client, server = sides()
    client.send(client.open(), b"question")
    client.finish(1)
    assert pass_on(client, server)[-1] == StreamFinished(1)
    server.send(1, b"answer")
    server.finish(1)
    wire = drain(server)
    assert frames(wire) == [(DATA, ACK, 1, 6), (UPDATE, FIN, 1, 0)]
    assert server.ended == [1]
    client.receive(wire)
    assert events(client) == [DataReceived(1, b"answer"), StreamFinished(1)]
    assert client.ended == [1]


def test_fin_waits_for_bytes_that_wait_for_credit() -> None:
    client, server = sides()
    client.send(client.open(), b"x" * (WINDOW + 5))
    client.finish(1)
    assert not any(isinstance(event, StreamFinished) for event in pass_on(client, server))
    server.grant(1, WINDOW, now=0.0)
    client.receive(drain(server))
    assert frames(drain(client)) == [(DATA, 0, 1, 5), (UPDATE, FIN, 1, 0)]


def test_fin_on_a_data_frame_comes_after_its_bytes() -> None:
    _, server = sides()
    server.receive(data(1, b"all", SYN | FIN))
    assert events(server) == [StreamOpened(1), DataReceived(1, b"all"), StreamFinished(1)]
    server.receive(data(3, b"", SYN | FIN))
    assert events(server) == [StreamOpened(3), StreamFinished(3)]


def test_reset_carries_its_code_where_go_looks_for_it() -> None:
    client, server = sides()
    client.send(client.open(), b"x")
    pass_on(client, server)
    server.reset(1, 0x1001)
    wire = drain(server)
    assert frames(wire) == [(UPDATE, RST | ACK, 1, 0x1001)]
    client.receive(wire)
    assert events(client) == [StreamWasReset(1, 0x1001)]
    assert client.ended == server.ended == [1]


def test_reset_before_the_remote_heard_of_the_stream_sends_nothing() -> None:
    client, _ = sides()
    client.send(client.open(), b"x" * 1000)
    client.reset(1)
    assert drain(client) == b""


def test_the_length_of_a_reset_is_no_credit_and_a_data_reset_has_no_code() -> None:
    client, server = sides()
    client.send(client.open(), b"x")
    client.send(client.open(), b"x")
    pass_on(client, server)
    client.receive(frame(UPDATE, RST, 1, 0xFFFFFFFF) + frame(DATA, RST, 3, 4, b"body"))
    assert events(client) == [StreamWasReset(1, 0xFFFFFFFF), StreamWasReset(3, 0)]


def test_frames_of_forgotten_streams_are_read_over() -> None:
    client, server = sides()
    client.send(client.open(), b"x")
    pass_on(client, server)
    server.reset(1)
    drain(server)
    server.receive(data(1, b"late") + frame(UPDATE, 0, 1, 100) + frame(UPDATE, FIN, 1, 0))
    server.receive(data(3, b"next", SYN))
    assert events(server) == [StreamOpened(3), DataReceived(3, b"next")]


def test_a_reset_in_the_middle_of_a_frame_drops_its_rest() -> None:
    _, server = sides()
    wire = data(1, b"abcdef", SYN)
    server.receive(wire[: HEADER + 3])
    server.reset(1)
    server.receive(wire[HEADER + 3 :] + data(3, b"next", SYN))
    assert events(server) == [
        StreamOpened(1),
        DataReceived(1, b"abc"),
        StreamOpened(3),
        DataReceived(3, b"next"),
    ]


# --- credit ----------------------------------------------------------------------------------------


def test_nothing_is_sent_beyond_the_credit_of_256_kib() -> None:
    client, server = sides()
    client.send(client.open(), b"x" * (2 * WINDOW))
    sent = sum(len(event.data) for event in pass_on(client, server) if isinstance(event, DataReceived))
    assert sent == WINDOW
    assert sum(count for _, count in client.sent) == WINDOW
    assert not client.has_output


@pytest.mark.claim("libp2p.credit-by-the-reader")
def test_credit_returns_when_the_reader_consumed_half_a_window_and_not_on_receipt() -> None:
    client, server = sides()
    client.send(client.open(), b"x" * (2 * WINDOW))
    pass_on(client, server)
    assert frames(drain(server)) == [(UPDATE, ACK, 1, 0)]
    server.grant(1, WINDOW // 2 - 1, now=0.0)
    assert drain(server) == b""
    server.grant(1, 1, now=0.0)
    assert frames(drain(server)) == [(UPDATE, 0, 1, WINDOW // 2)]


def test_a_window_that_turns_over_fast_doubles_up_to_its_bound() -> None:
    client, server = sides(max_window=WINDOW * 4, growth=WINDOW * 100)
    server.round_trip = 0.1
    client.open()
    pass_on(client, server)
    drain(server)
    granted, now, window = [], 0.0, WINDOW
    for _ in range(5):
        now += 0.3  # less than four round trips
        server.grant(1, window // 2, now=now)
        ((_, _, _, credit),) = frames(drain(server))
        granted.append(credit - window // 2)
        window += granted[-1]
    assert granted == [0, WINDOW, 2 * WINDOW, 0, 0]


def test_a_window_that_turns_over_slowly_stays() -> None:
    client, server = sides()
    server.round_trip = 0.1
    client.open()
    pass_on(client, server)
    drain(server)
    for turn in range(5):
        server.grant(1, WINDOW // 2, now=turn * 0.5)
        assert frames(drain(server)) == [(UPDATE, 0, 1, WINDOW // 2)]


@pytest.mark.claim("libp2p.yamux-memory-bounded")
def test_all_windows_together_grow_by_no_more_than_the_bound_and_give_it_back() -> None:
    _, server = sides(max_window=WINDOW * 16, growth=WINDOW)
    for stream in (1, 3):
        server.receive(frame(UPDATE, SYN, stream, 0))
        server.grant(stream, WINDOW // 2, now=0.0)
    drain(server)
    server.grant(1, WINDOW // 2, now=0.001)
    server.grant(3, WINDOW // 2, now=0.001)
    assert frames(drain(server)) == [(UPDATE, 0, 1, WINDOW // 2 + WINDOW), (UPDATE, 0, 3, WINDOW // 2)]
    server.reset(1)
    drain(server)
    server.grant(3, WINDOW // 2, now=0.002)
    assert frames(drain(server)) == [(UPDATE, 0, 3, WINDOW // 2 + WINDOW)]


def test_streams_take_turns() -> None:
    client, _ = sides()
    for _ in range(3):
        client.send(client.open(), b"x" * WINDOW)
    turns = []
    while pieces := client.take(100_000):
        turns += [stream for _, _, stream, _ in frames(b"".join(pieces))]
    assert turns[:6] == [1, 3, 5, 1, 3, 5]


@pytest.mark.parametrize("limit", [64, 1000, 65519, 100_000])
def test_a_take_fits_its_limit_and_every_piece_a_noise_message(limit: int) -> None:
    client, _ = sides()
    for size in (10, 100_000, 70_000, 1):
        client.send(client.open(), b"x" * size)
    wire = b""
    while pieces := client.take(limit):
        assert sum(map(len, pieces)) <= limit
        assert max(map(len, pieces)) <= 65519
        wire += b"".join(pieces)
    assert sum(length for kind, _, _, length in frames(wire) if kind == DATA) == 170_011


def test_a_block_of_64_kib_is_one_frame_whose_body_is_not_copied() -> None:
    client, _ = sides()
    block = bytes(65536)
    client.send(client.open(), block)
    header, head, body = client.take(100_000)
    assert header == frame(DATA, SYN, 1, 65536)
    assert (len(head), len(body)) == (17, 65519)
    assert body.obj is block  # type: ignore[union-attr]


# --- the session -----------------------------------------------------------------------------------


def test_a_ping_is_echoed_and_its_echo_reported() -> None:
    client, server = sides()
    client.ping(7)
    assert pass_on(client, server) == []
    assert pass_on(server, client) == [Pong(0, 7)]


def test_the_first_frame_of_js_is_answered() -> None:
    server = Yamux(client=False)
    server.receive(bytes.fromhex("000200010000000000000000"))
    assert drain(server).hex() == "000200020000000000000000"


def test_go_away_is_reported_and_refuses_new_streams() -> None:
    client, server = sides()
    server.go_away(0x1006)
    server.go_away(1)
    assert pass_on(server, client) == [WentAway(0, 0x1006)]
    server.receive(frame(UPDATE, SYN, 1, 0))
    assert events(server) == []
    assert frames(drain(server)) == [(UPDATE, RST, 1, REFUSED)]


def test_256_unacknowledged_streams_and_no_more() -> None:
    client, server = sides()
    for _ in range(256):
        assert client.can_open
        client.open()
    assert not client.can_open
    with pytest.raises(LocalProtocolError, match="256"):
        client.open()
    pass_on(client, server)
    pass_on(server, client)
    assert client.can_open


def test_bytes_or_a_reset_acknowledge_a_stream_too() -> None:
    client, _ = sides()
    for _ in range(256):
        client.open()
    drain(client)
    client.receive(data(1, b"x") + frame(UPDATE, RST, 3, 0))
    client.open()
    client.open()
    assert not client.can_open


def test_streams_beyond_the_limit_are_refused_until_one_ends() -> None:
    server = Yamux(client=False, max_inbound=2)
    server.receive(b"".join(frame(UPDATE, SYN, stream, 0) for stream in (1, 3, 5)))
    assert events(server) == [StreamOpened(1), StreamOpened(3)]
    assert (UPDATE, RST, 5, REFUSED) in frames(drain(server))
    server.reset(1)
    server.receive(frame(UPDATE, SYN, 7, 0))
    assert events(server) == [StreamOpened(7)]


# --- remotes at fault ------------------------------------------------------------------------------

FAULTS = {
    "opened twice": frame(UPDATE, SYN, 1, 0) * 2,
    "wrong side": frame(UPDATE, SYN, 2, 0),
    "stream 0": frame(UPDATE, SYN, 0, 0),
    "its credit is 0": data(1, b"x" * WINDOW, SYN) + data(1, b"x"),
    "frame type 4": frame(4, 0, 1, 0),
    "version 1": b"\1" + frame(UPDATE, SYN, 1, 0)[1:],
    "after its end": frame(UPDATE, SYN | FIN, 1, 0) + data(1, b"x"),
    "limit 2\\*\\*32": frame(UPDATE, SYN, 1, 0) + frame(UPDATE, 0, 1, 0xFFFFFFFF),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_remote_at_fault_gets_go_away_1(fault: str) -> None:
    server = Yamux(client=False)
    with pytest.raises(RemoteProtocolError, match=fault):
        server.receive(FAULTS[fault])
    assert (GO_AWAY, 0, 0, 1) in frames(drain(server))


@pytest.mark.claim("libp2p.yamux-memory-bounded")
@pytest.mark.parametrize(
    "asking",
    [
        lambda n: frame(PING, SYN, 0, n),
        lambda n: frame(UPDATE, SYN, 2 * n + 1, 0),
        lambda n: frame(UPDATE, SYN, 1, 0) + frame(UPDATE, RST, 1, 0),
    ],
    ids=["pings", "streams", "streams and resets"],
)
def test_what_is_owed_to_a_remote_that_does_not_read_is_bounded(asking) -> None:  # type: ignore[no-untyped-def]
    server = Yamux(client=False, max_inbound=8)
    with suppress(RemoteProtocolError):
        for number in range(3 * MAX_OWED):
            server.receive(asking(number))
            for event in events(server):
                if isinstance(event, StreamOpened) and number % 2:
                    server.reset(event.stream)
            server.ended.clear()
    assert len(drain(server)) <= (MAX_OWED + 16) * HEADER


@pytest.mark.claim("libp2p.yamux-memory-bounded")
def test_resets_that_the_remote_provokes_and_does_not_read_are_bounded() -> None:
    server = Yamux(client=False, max_inbound=8)
    with pytest.raises(RemoteProtocolError, match="without reading"):  # noqa: PT012
        for number in range(3 * MAX_OWED):
            server.receive(frame(UPDATE, SYN, 2 * number + 1, 0))
            events(server)
            server.reset(2 * number + 1)
    assert len(drain(server)) <= (MAX_OWED + 8) * HEADER


# --- any bytes -------------------------------------------------------------------------------------

SESSION = (
    data(1, b"hello", SYN)
    + frame(PING, SYN, 0, 9)
    + frame(UPDATE, 0, 1, 4096)
    + data(3, b"x" * 50, SYN | FIN)
    + frame(UPDATE, FIN, 1, 0)
    + frame(UPDATE, SYN, 5, 0)
    + frame(UPDATE, RST, 5, 3)
    + frame(GO_AWAY, 0, 0, 0)
)


@pytest.mark.parametrize("step", [1, 5, 11, 12, 13, 40])
def test_any_cut_of_the_bytes_gives_the_same_bytes_and_events(step: int) -> None:
    def run(step: int) -> tuple[list[Event], dict[int, bytes]]:
        server, bodies = Yamux(client=False), {1: b"", 3: b"", 5: b""}
        for at in range(0, len(SESSION), step):
            server.receive(SESSION[at : at + step])
        for event in server.events:
            if isinstance(event, DataReceived):
                bodies[event.stream] += event.data
        return [event for event in server.events if not isinstance(event, DataReceived)], bodies

    assert run(step) == run(len(SESSION))


@pytest.mark.claim("libp2p.decoders-survive")
def test_mutated_sessions_raise_only_the_declared_error() -> None:
    for index, wire in enumerate(mutations(7, [SESSION, data(1, b"x" * 300, SYN)], rounds())):
        server = Yamux(client=False, max_inbound=4)
        half = len(wire) // 2
        try:
            server.receive(wire[:half])
            server.send(1, b"answer")
            server.grant(1, 5, now=0.0)
            server.receive(wire[half:])
            server.finish(1)
        except RemoteProtocolError:
            assert index > 1, "the corpus itself was refused"
        drain(server)


@pytest.mark.parametrize("seed", range(8))
def test_two_machines_under_random_use_deliver_every_byte_in_order(seed: int) -> None:
    rng = Random(seed)
    both = sides(max_window=WINDOW * 2, growth=WINDOW * 2)
    written: dict[tuple[int, int], bytearray] = {}
    read: dict[tuple[int, int], bytearray] = {}
    live: list[set[int]] = [set(), set()]
    for _ in range(100):
        me = rng.randrange(2)
        machine, other = both[me], both[1 - me]
        if rng.random() < 0.2 and len(live[me]) < 4:
            live[me].add(machine.open())
        for stream in sorted(live[me]):
            body = rng.randbytes(rng.choice((1, 100, 70_000)))
            machine.send(stream, body)
            written.setdefault((me, stream), bytearray()).extend(body)
        wire = drain(machine)
        step = rng.choice((len(wire) or 1, 1000))
        for at in range(0, len(wire), step):
            other.receive(wire[at : at + step])
        for event in events(other):
            if isinstance(event, StreamOpened):
                live[1 - me].add(event.stream)
            elif isinstance(event, DataReceived):
                read.setdefault((me, event.stream), bytearray()).extend(event.data)
                other.grant(event.stream, len(event.data), now=rng.random())
    for _ in range(200):
        for me in range(2):
            both[1 - me].receive(drain(both[me]))
            for event in events(both[1 - me]):
                if isinstance(event, DataReceived):
                    read.setdefault((me, event.stream), bytearray()).extend(event.data)
                    both[1 - me].grant(event.stream, len(event.data), now=1.0)
    assert read == written, f"seed {seed}"
