"""Identify and identify/push: the message, and what is believed. libp2p/specs identify/README.md."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
from grove_libp2p import identify
from grove_libp2p.config import Config
from grove_libp2p.framing import frame
from grove_libp2p.identify import ID, PUSH, Identify, decode, encode, merge
from grove_libp2p.observed import MAX_ADDRESSES, Observed
from grove_libp2p.service import Libp2p

from grove_core import protobuf
from grove_core.errors import RemoteProtocolError
from grove_core.identity import Identity
from grove_core.multiaddr import Multiaddr
from grove_core.record import sign_record
from grove_core.transport import StreamReset
from tests.fuzz import survives
from tests.plugins.libp2p.fakes import FakeConnection, FakeNode, FakeStream, connect, greet

ME = Identity.from_seed(bytes(32))
HERE = Multiaddr.tcp("127.0.0.1", 4001)
LAN = Multiaddr.quic("192.168.1.7", 4001)
WAN = Multiaddr.quic("1.2.3.4", 4001)

FULL = Identify(
    public_key=ME.public,
    addresses=(HERE, WAN),
    protocols=(ID, "/grove/plumtree/1.0.0"),
    observed=LAN,
    protocol_version="grove/1.0.0",
    agent="grove/0.1.0",
    record=sign_record(ME, 1, [HERE, WAN]),
)


# --- the message ---------------------------------------------------------------------------------


@pytest.mark.claim("identify.bytes")
def test_message_is_the_fields_of_the_spec_in_ascending_order() -> None:
    small = Identify(
        public_key=ME.public,
        addresses=(HERE,),
        protocols=("/a",),
        observed=HERE,
        protocol_version="v",
        agent="g",
        record=b"r",
    )
    key = ME.public.encode().hex()
    address = "047f000001060fa1"
    (message,) = encode(small)
    assert message.hex() == f"0a24{key}1208{address}1a022f612208{address}2a0176320167420172"
    assert decode(message) == small


def test_everything_comes_back() -> None:
    assert merge(map(decode, encode(FULL))) == FULL
    assert decode(b"") == Identify()


@pytest.mark.claim("identify.size")
def test_large_identify_sends_the_bulk_first_and_the_record_after_it() -> None:
    large = Identify(
        public_key=ME.public,
        protocols=tuple(f"/grove/protocol-number-{n}/1.0.0" for n in range(60)),
        record=FULL.record,
    )
    bulk, record = encode(large)
    assert len(bulk) + len(record) > identify.WHOLE
    assert decode(bulk) == Identify(public_key=ME.public, protocols=large.protocols)
    assert decode(record) == Identify(record=FULL.record)
    assert merge(map(decode, (bulk, record))) == large


@pytest.mark.claim("identify.size")
def test_no_message_exceeds_what_rust_reads() -> None:
    addresses = tuple(Multiaddr.tcp("1.2.3.4", port) for port in range(1, 450))
    many = Identify(
        public_key=ME.public, addresses=addresses, protocols=FULL.protocols, record=FULL.record
    )
    bulk, _ = encode(many)
    assert len(bulk) <= identify.MAX_SENT < len(bulk) + len(addresses[0].encode()) + 2  # not one more
    kept = decode(bulk)
    assert kept.protocols == FULL.protocols
    assert kept.addresses == addresses[: len(kept.addresses)]
    flood = Identify(protocols=tuple(f"/{n:0100}" for n in range(100)), addresses=addresses)
    (message,) = encode(flood)
    assert len(message) <= identify.MAX_SENT
    assert decode(message).protocols == flood.protocols[: len(decode(message).protocols)]


def test_merging_appends_what_repeats_and_takes_the_last_of_the_rest() -> None:
    first = Identify(protocols=("/a",), addresses=(HERE,), agent="old", protocol_version="v")
    second = Identify(protocols=("/b",), addresses=(WAN,), agent="new")
    assert merge([first, second]) == Identify(
        protocols=("/a", "/b"), addresses=(HERE, WAN), agent="new", protocol_version="v"
    )


def test_merging_is_bounded() -> None:
    many = Identify(
        protocols=tuple(map(str, range(1000))),
        addresses=tuple(Multiaddr.tcp("1.2.3.4", n) for n in range(400)),
    )
    whole = merge([many, many])
    assert (len(whole.protocols), len(whole.addresses)) == (1024, 500)


def test_what_cannot_be_read_is_left_out_and_the_rest_is_kept() -> None:
    message = b"".join(
        (
            protobuf.field(2, b"\xfe\x01"),  # an address of unknown code
            protobuf.field(2, HERE.encode()),
            protobuf.field(3, b"\xff"),
            protobuf.field(3, b"/a\x1b[31m"),
            protobuf.field(3, b"/" + b"a" * 256),
            protobuf.field(3, b"/b"),
            protobuf.field(4, b""),
            protobuf.field(7, 7),
            protobuf.field(100, b"a field of the future"),
        )
    )
    assert decode(message) == Identify(addresses=(HERE,), protocols=("/b",))


def test_agent_is_made_fit_for_a_terminal() -> None:
    assert (
        decode(protobuf.field(6, b"evil\x1b[2J\xff" + b"x" * 500)).agent == "evil?[2J\ufffd" + "x" * 119
    )


@pytest.mark.parametrize("message", [protobuf.field(1, b"no key"), protobuf.field(3, 1), bytes(8193)])
def test_messages_that_cannot_be_are_refused(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(message)


@pytest.mark.claim("identify.fuzz")
def test_identify_survives_mutation() -> None:
    corpus = [*encode(FULL), *encode(Identify(protocols=(ID, PUSH), observed=WAN))]
    assert survives(lambda data: encode(decode(data)), 1, corpus) > 0


# --- the service ---------------------------------------------------------------------------------


Pair = Callable[[FakeNode, FakeNode, Libp2p, Libp2p], Awaitable[None]]


def run(test: Pair, config: Config | None = None) -> None:
    """Run a test between two nodes whose service is up; everything must end by itself."""

    async def main() -> None:
        a, b = FakeNode(1, [HERE, LAN, WAN], "grove/test"), FakeNode(2)
        services = [Libp2p(config or Config(), node) for node in (a, b)]  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            for service in services:
                await service.start()
            await test(a, b, *services)
            for service in services:
                await service.stop()
            assert not services[0]._tasks
            assert not services[1]._tasks
            assert not services[0]._serving
            assert not services[1]._serving

    asyncio.run(main())


def serve_identify(node: FakeNode, *messages: bytes, end: bool = True) -> None:
    """Make a node answer identify with these messages instead of its own."""

    def answer(stream: FakeStream) -> None:
        stream.write(b"".join(map(frame, messages)))
        if end:
            stream.close_write()

    node.handlers[ID] = answer  # type: ignore[assignment]


async def push(connection: FakeConnection, *messages: bytes) -> FakeStream:
    stream = await connection.open_stream([PUSH])
    stream.write(b"".join(map(frame, messages)))
    stream.close_write()
    return stream


@pytest.mark.claim("identify.greet")
def test_a_new_connection_is_identified_from_both_ends() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        from_a, from_b = connect(a, b)
        await asyncio.gather(greet(from_a), greet(from_b))
        known = b.peers.get(a.peer)
        assert known.protocols == (ID, PUSH, "/ipfs/ping/1.0.0")
        assert known.agent == "grove/test"
        assert known.record == a.record()
        assert set(known.addresses) == {HERE, LAN, WAN}
        assert a.peers.get(b.peer).agent.startswith("grove/")
        assert of_b.observed.counts() == {from_a.remote: 1}

    run(test)


def test_addresses_are_told_only_as_far_as_the_connection_reaches() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        for at_b, expected in [
            ("/ip4/127.0.0.1/tcp/2", (HERE, LAN, WAN)),
            ("/ip4/192.168.1.9/tcp/2", (LAN, WAN)),
            ("/ip4/5.6.7.8/tcp/2", (WAN,)),
        ]:
            from_a, _ = connect(a, b, at_b=at_b)
            words = of_a._words_for(from_a)  # type: ignore[arg-type]
            assert decode(words[2:]).addresses == expected
            assert decode(words[2:]).observed == from_a.remote

    run(test)


def test_addresses_of_a_narrower_reach_than_the_connection_are_not_believed() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        _, from_b = connect(a, b, at_a="/ip4/5.6.7.8/tcp/1")
        serve_identify(a, *encode(Identify(addresses=(HERE, LAN, WAN), protocols=("/x",))))
        await greet(from_b)
        assert b.peers.get(a.peer).addresses == (WAN,)

    run(test)


def test_nothing_is_observed_through_a_relay() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        relay = Multiaddr(*WAN.with_peer(ME.peer).parts, ("p2p-circuit", ""))
        from_a, from_b = connect(a, b, at_a=str(relay), at_b=str(relay))
        assert decode(of_a._words_for(from_a)[2:]).observed is None  # type: ignore[arg-type]
        serve_identify(a, *encode(Identify(observed=WAN, protocols=("/x",))))
        await greet(from_b)
        assert b.peers.get(a.peer).protocols == ("/x",)
        assert not of_b.observed.counts()

    run(test)


@pytest.mark.claim("identify.checks")
def test_key_of_somebody_else_is_not_believed() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        _, from_b = connect(a, b)
        serve_identify(a, *encode(Identify(public_key=ME.public, protocols=("/lie",))))
        await greet(from_b)
        assert b.peers.get(a.peer).protocols is None
        assert from_b.opened[0].reset_code is not None

    run(test)


@pytest.mark.claim("identify.checks")
@pytest.mark.parametrize("record", [FULL.record, b"no record"], ids=["of another peer", "broken"])
def test_record_that_does_not_hold_leaves_the_plain_addresses(record: bytes) -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        _, from_b = connect(a, b)
        a.own_record = record
        await greet(from_b)
        assert b.peers.get(a.peer).addresses == (HERE, LAN, WAN)
        assert b.peers.get(a.peer).record == b""
        assert ME.peer not in b.peers.entries

    run(test)


def test_identify_in_several_messages_is_one() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        _, from_b = connect(a, b)
        serve_identify(a, *encode(Identify(protocols=("/a",))), *encode(Identify(protocols=("/b",))))
        await greet(from_b)
        assert b.peers.get(a.peer).protocols == ("/a", "/b")

    run(test)


def test_only_ten_messages_are_read_even_if_there_is_no_end() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        _, from_b = connect(a, b)
        serve_identify(a, *(protobuf.field(3, b"/%d" % n) for n in range(50)), end=False)
        await greet(from_b)
        assert b.peers.get(a.peer).protocols == tuple(f"/{n}" for n in range(10))

    run(test)


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xff\x7f", b"\x05ab", frame(b"\x0a\x01")], ids=["empty", "huge", "cut", "bad"]
)
def test_bad_identify_leaves_the_connection_usable(raw: bytes) -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        _, from_b = connect(a, b)

        def answer(stream: FakeStream) -> None:
            stream.write(raw)
            stream.close_write()

        a.handlers[ID] = answer  # type: ignore[assignment]
        await greet(from_b)
        assert b.peers.get(a.peer).protocols is None

    run(test)


def test_peer_that_does_not_answer_or_speak_identify_is_given_up() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        _, from_b = connect(a, b)
        a.handlers[ID] = lambda stream: None
        await greet(from_b)
        assert from_b.opened[0].reset_code == 0
        ping = a.handlers.pop(ID)
        await greet(from_b)
        assert len(from_b.opened) == 1
        a.handlers[ID] = ping

    run(test, Config(identify_timeout=0.01))


def test_identify_streams_of_one_peer_are_bounded() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        from_a, _ = connect(a, b)
        held = [await from_a.open_stream([ID]) for _ in range(3)]
        with pytest.raises(StreamReset):
            await held[2].read()
        for stream in held[:2]:
            assert await stream.read()
            stream.close_write()

    run(test, Config(identify_streams=2))


@pytest.mark.claim("identify.push")
def test_changes_are_pushed_once_for_all_that_happened_together() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        from_a, from_b = connect(a, b)
        await asyncio.gather(greet(from_a), greet(from_b))
        b.peers.learnt.clear()
        for n in range(20):
            a.serve(f"/new/{n}", lambda stream: None)
            a.change()
        await b.peers.learnt.wait()
        assert b.peers.get(a.peer).protocols == a.protocols
        assert [stream.protocol for stream in from_a.opened].count(PUSH) == 1

    run(test, Config(push_delay=0.01))


def test_pushes_keep_their_distance() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        from_a, from_b = connect(a, b)
        await asyncio.gather(greet(from_a), greet(from_b))
        b.peers.learnt.clear()
        a.change()
        await b.peers.learnt.wait()
        a.change()
        timer = of_a._push_timer
        assert timer is not None
        assert timer.when() >= of_a._pushed_at + 3600

    run(test, Config(push_delay=0.001, push_interval=3600))


def test_peers_without_push_are_left_alone() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        from_a, _ = connect(a, b)
        serve_identify(b, *encode(Identify(protocols=("/x",))))
        await greet(from_a)
        await of_a._push_to_all()
        assert [stream.protocol for stream in from_a.opened] == [ID]

    run(test)


def test_what_a_push_leaves_out_stays_as_it_was() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        from_a, from_b = connect(a, b)
        await greet(from_b)
        before = b.peers.get(a.peer)
        stream = await push(from_a, *encode(Identify(agent="grove/9")))
        assert await stream.read() == b""
        after = b.peers.get(a.peer)
        assert (after.agent, after.protocols, after.record) == (
            "grove/9",
            before.protocols,
            before.record,
        )

    run(test)


def test_pushes_of_one_peer_are_rated() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        from_a, _ = connect(a, b)
        for n in range(3):
            stream = await push(from_a, *encode(Identify(agent=f"grove/{n}")))
            assert await stream.read() == b""
        refused = await from_a.open_stream([PUSH])
        with pytest.raises(StreamReset):
            await refused.read()
        assert b.peers.get(a.peer).agent == "grove/2"

    run(test, Config(push_burst=3, push_rate=0.0001))


def test_stopping_resets_what_is_being_served() -> None:
    async def test(a: FakeNode, b: FakeNode, of_a: Libp2p, of_b: Libp2p) -> None:
        from_a, _ = connect(a, b)
        stream = await from_a.open_stream([PUSH])
        await asyncio.sleep(0)
        await of_b.stop()
        with pytest.raises(StreamReset):
            await stream.read()
        await of_b.start()

    run(test)


# --- observed addresses --------------------------------------------------------------------------


@pytest.mark.claim("identify.observed")
def test_address_is_ours_when_four_distinct_observers_say_so() -> None:
    observed = Observed()
    for _ in range(10):
        observed.saw(Multiaddr.tcp("9.9.9.1", 1), WAN)
    assert observed.counts() == {WAN: 1}
    for n in (2, 3):
        observed.saw(Multiaddr.tcp(f"9.9.9.{n}", 1), WAN)
    assert observed.confirmed() == ()
    observed.saw(Multiaddr.tcp("9.9.9.4", 1), WAN)
    assert observed.confirmed() == (WAN,)


def test_ipv6_observers_of_one_56_are_one() -> None:
    observed, ours = Observed(), Multiaddr.tcp("2606:4700::1", 1)
    for n in range(256):
        observed.saw(Multiaddr.tcp(f"2606:4701:0:{n:x}::1", 1), ours)
    assert observed.counts() == {ours: 1}
    observed.saw(Multiaddr.tcp("2606:4701:0:100::1", 1), ours)
    assert observed.counts() == {ours: 2}


def test_observers_and_addresses_are_bounded_and_of_one_reach() -> None:
    observed = Observed()
    for n in range(200):
        observed.saw(Multiaddr.tcp(f"9.9.9.{n}", 1), WAN)
        observed.saw(Multiaddr.tcp("9.9.9.1", 1), Multiaddr.tcp("1.2.3.4", n))
    assert len(observed.counts()) == MAX_ADDRESSES
    assert observed.counts()[WAN] == 16
    before = dict(observed.counts())
    observed.saw(Multiaddr.tcp("9.9.9.1", 1), LAN)
    observed.saw(Multiaddr(*WAN.with_peer(ME.peer).parts, ("p2p-circuit", "")), WAN)
    assert observed.counts() == before


# --- the plugin ----------------------------------------------------------------------------------


def test_plugin_offers_its_service_and_loads_nothing_heavy_for_it() -> None:
    program = (
        "import sys, grove_libp2p; (spec,) = grove_libp2p.grove_services(); "
        "assert spec.name == 'libp2p' and grove_libp2p.GROVE_API == 1; spec.config(); "
        "sys.exit(any(name in sys.modules for name in ('asyncio', 'cryptography', 'aioquic')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
