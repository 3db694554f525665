"""Grove and js-libp2p over TCP and over QUIC, dialling and being dialled: what every transport must do.

The lines are those of issue 2, "Interop is the proof"; js/peer.mjs is the other end. These tests stand on
the transports alone; what a whole node adds (identify, its ping service) is in test_js_node.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import grove_quic.config
import grove_tcp.config
import pytest

from grove_core.identity import Identity, peer_text
from grove_core.transport import DialError, ProtocolNotSupported, StreamReset
from tests.interop.conftest import StartJs
from tests.interop.grove_end import BOUND, Meeting, grove_end, meeting
from tests.interop.js_peer import JsError, JsPeer
from tests.interop.lines import Way, line
from tests.interop.services import (
    BLOCK,
    BULK,
    ECHO,
    HOLD,
    PING,
    RESET,
    RESET_CODE,
    Progress,
    Reader,
    bulk,
    echo,
    pattern_hash,
)

MIB = 1 << 20
SIZE = 100 * MIB
NOTHING = pattern_hash(0)
BULK_BOUND = 60.0  # s for 100 MiB; TCP needs one, QUIC about five on an idle machine

WRITE_BUFFER = 256 * 1024 + len(BLOCK)
"""Most that Grove may hold of a stream whose reader is slow: `drain`'s limit and the last write."""

JS_WINDOW = 17 * MIB
"""Most that js may have been sent and not yet read: yamux grows to 16 MiB, quinn's stream has 10 MB."""

GROVE_WINDOW = {
    "tcp": grove_tcp.config.Config().max_window,
    "quic": grove_quic.config.Config().stream_window,
}
"""Most that may come in while Grove's reader stands still, as its tables say."""


def run(test: Coroutine[Any, Any, None], bound: float = BOUND) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(bound):
            await test

    asyncio.run(bounded())


async def still_works(met: Meeting) -> None:
    """The connection carries new streams both ways."""
    assert await echo(await met.connection.open_stream([ECHO]), b"still here") == b"still here"
    await met.js.do("ping", peer=met.grove.peer)


@line("connect")
def test_each_side_knows_who_the_other_is(way: Way, js: JsPeer) -> None:
    async def main() -> None:
        async with meeting(way, js) as met:
            assert peer_text(met.connection.peer) == js.peer
            assert met.connection.transport == way.transport
            assert met.connection.inbound is not way.grove_dials
            assert met.connection.remote.peer is None
            assert met.dialled["peer"] == met.grove.peer
            assert met.dialled["direction"] == ("inbound" if way.grove_dials else "outbound")
            assert met.dialled["encryption"] == ("/noise" if way.transport == "tcp" else "native")
            await still_works(met)

    run(main())


@line("connect")
def test_a_closed_connection_is_closed_at_the_other_end(way: Way, js: JsPeer) -> None:
    async def main() -> None:
        async with meeting(way, js) as met:
            met.connection.close()
            await js.event("disconnected", peer=met.grove.peer)
            await met.grove.until(lambda: not met.grove.live)
        async with meeting(way, js) as met:
            await js.do("hangup", peer=met.grove.peer)
            await met.grove.until(lambda: not met.grove.live)

    run(main())


@line("keys")
@pytest.mark.parametrize("key", ["secp256k1", "RSA"])
def test_peers_may_have_other_kinds_of_keys(way: Way, key: str, start_js: StartJs) -> None:
    async def main() -> None:
        async with meeting(way, start_js(key=key)) as met:
            assert peer_text(met.connection.peer) == met.js.peer
            await still_works(met)

    run(main())


@line("ping")
def test_a_hundred_pings_on_one_stream_and_on_a_stream_each(way: Way, js: JsPeer) -> None:
    async def main() -> None:
        async with meeting(way, js) as met:
            if way.grove_dials:
                one = await met.connection.open_stream([PING])
                for i in range(100):
                    assert await echo(one, BLOCK[i : i + 32]) == BLOCK[i : i + 32]
                one.close_write()
                assert await one.read() == b""
                for i in range(100):
                    stream = await met.connection.open_stream([PING])
                    assert await echo(stream, BLOCK[i : i + 32]) == BLOCK[i : i + 32]
                    stream.close_write()
                    assert await stream.read() == b""
            else:
                for one_stream in (True, False):
                    answer = await js.do("ping", peer=met.grove.peer, count=100, oneStream=one_stream)
                    assert len(answer["rtts"]) == 100

    run(main())


@line("bulk-to-js")
def test_a_slow_js_reader_holds_grove_back(way: Way, js: JsPeer) -> None:
    """js stops every 16 MiB. Over yamux it stands still until told to go on; its QUIC streams cannot
    stand still (js reads on into memory), so there the whole program does, for a moment."""

    async def main() -> None:
        async with meeting(way, js) as met:
            progress = Progress() if way.grove_dials else met.grove.services.progress

            async def attend() -> None:
                while True:
                    paused = await js.event("paused", timeout=BULK_BOUND)
                    await js.do("ping", peer=met.grove.peer)  # other streams are not held up
                    assert progress.sent - paused["received"] <= JS_WINDOW + WRITE_BUFFER
                    await js.do("resume", label=paused["label"])

            attendant = asyncio.create_task(attend())
            try:
                if way.grove_dials:
                    await js.do("pace", every=16 * MIB)
                    stream = await met.connection.open_stream([BULK])
                    seen, received, _ = await bulk(stream, up=SIZE, down=0, progress=progress)
                    assert (seen, received) == (pattern_hash(SIZE), 0)
                else:
                    answer = await js.do(
                        "bulk", peer=met.grove.peer, down=SIZE, every=16 * MIB, timeout=BULK_BOUND
                    )
                    assert answer["received"] == SIZE
                    assert answer["down"] == pattern_hash(SIZE).hex()
            finally:
                attendant.cancel()
                outcome = await asyncio.gather(attendant, return_exceptions=True)
            assert isinstance(outcome[0], asyncio.CancelledError), outcome
            assert progress.most_buffered <= WRITE_BUFFER

    run(main(), BULK_BOUND)


@line("bulk-to-grove")
def test_a_slow_grove_reader_holds_js_back(way: Way, js: JsPeer) -> None:
    """Grove's reader stands still every 25 MiB, until js says that it can send no more."""

    async def main() -> None:
        async with meeting(way, js) as met:
            withheld = []

            async def until_js_can_send_no_more(reader: Reader) -> None:
                received = reader.received
                if received > SIZE - 10 * MIB:
                    return
                while way.transport == "tcp":
                    blocked = await js.event("blocked")
                    if blocked["sent"] > received:  # an older one was a passing moment
                        break
                await js.do(
                    "ping", peer=met.grove.peer, count=200, oneStream=True
                )  # others are not held up
                withheld.append(reader.withheld)

            if way.grove_dials:
                stream = await met.connection.open_stream([BULK])
                answer = await bulk(
                    stream,
                    up=0,
                    down=SIZE,
                    progress=Progress(),
                    pause=until_js_can_send_no_more,
                    every=25 * MIB,
                )
                assert answer == (NOTHING, SIZE, pattern_hash(SIZE))
            else:
                met.grove.services.pause, met.grove.services.every = until_js_can_send_no_more, 25 * MIB
                told = await js.do("bulk", peer=met.grove.peer, up=SIZE, timeout=BULK_BOUND)
                assert told["up"] == pattern_hash(SIZE).hex()
            assert len(withheld) == 3
            assert 0 < max(withheld) <= GROVE_WINDOW[way.transport]

    run(main(), BULK_BOUND)


@line("streams")
def test_a_thousand_streams(way: Way, js: JsPeer) -> None:
    async def main() -> None:
        async with meeting(way, js) as met:
            if way.grove_dials:
                at_once = asyncio.Semaphore(200)

                async def one(number: int) -> None:
                    async with at_once:
                        stream = await met.connection.open_stream([ECHO])
                        data = number.to_bytes(4, "big") * 8
                        assert await echo(stream, data) == data
                        stream.close_write()
                        assert await stream.read() == b""

                await asyncio.gather(*map(one, range(1000)))
            else:
                answer = await js.do("streams", peer=met.grove.peer, count=1000, atOnce=200)
                assert answer["done"] == 1000
            await still_works(met)

    run(main())


@line("reset-by-grove")
def test_grove_resets_streams(way: Way, js: JsPeer) -> None:
    """js hides a reset on QUIC: it reads it as the end of the stream. Over yamux it says what it was."""
    shown = {"reset"} if way.transport == "tcp" else {"end", "aborted", "reset"}

    async def main() -> None:
        async with meeting(way, js) as met:
            ours = await met.connection.open_stream([HOLD])
            ours.write(b"x")
            await js.event("holding", peer=met.grove.peer)
            ours.reset(RESET_CODE)
            held = await js.event("held", peer=met.grove.peer)
            assert (held["received"], held["how"] in shown) == (1, True), held
            theirs = await js.do("aborted", peer=met.grove.peer)
            assert theirs["how"] in shown, theirs
            await still_works(met)

    run(main())


@line("reset-by-js")
def test_js_resets_streams(way: Way, js: JsPeer) -> None:
    """js gives no code: over yamux it knows none, over QUIC it sends 0."""

    async def main() -> None:
        async with meeting(way, js) as met:
            ours = await met.connection.open_stream([RESET])
            ours.write(b"x")
            with pytest.raises(StreamReset) as reset:
                await ours.read()
            assert reset.value.code == 0
            await js.do("abort", peer=met.grove.peer)
            assert await met.grove.services.resets.get() == 0
            await still_works(met)

    run(main())


@line("unsupported")
def test_an_unknown_protocol_is_refused(way: Way, js: JsPeer) -> None:
    async def main() -> None:
        async with meeting(way, js) as met:
            with pytest.raises(ProtocolNotSupported):
                await met.connection.open_stream(["/nobody/speaks/1.0.0", "/nor/this/1.0.0"])
            chosen = await met.connection.open_stream(["/nobody/speaks/1.0.0", ECHO])
            assert chosen.protocol == ECHO
            assert await echo(chosen, b"second choice") == b"second choice"
            lazy = await met.connection.open_stream(["/nobody/speaks/1.0.0"])
            with pytest.raises(ProtocolNotSupported):
                await lazy.read()
            with pytest.raises(JsError, match="UnsupportedProtocol"):
                await js.do("open", peer=met.grove.peer, protocol="/nobody/speaks/1.0.0")
            await still_works(met)

    run(main())


@line("wrong-peer")
def test_a_wrong_peer_id_is_refused(way: Way, js: JsPeer) -> None:
    other = Identity.generate().peer

    async def main() -> None:
        async with grove_end(way.transport) as grove:
            if way.grove_dials:
                with pytest.raises(DialError) as refused:
                    await grove.dial(js.addr(way.transport), other)
                assert peer_text(other) in str(refused.value)
                assert js.peer in str(refused.value)
            else:
                with pytest.raises(JsError, match=peer_text(other)):
                    await js.do("dial", addr=grove.addr(other))
            await grove.settled()

    run(main())
