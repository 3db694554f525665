"""The stream class that TCP and QUIC share, over a muxer that only writes down what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
from grove_libp2p import stream as stream_module
from grove_libp2p.multistream import HEADER, NA, message
from grove_libp2p.stream import (
    DRAINED,
    STREAM_NEGOTIATION_FAILED,
    STREAM_PROTOCOL_VIOLATION,
    STREAM_RESOURCE_LIMIT,
    MuxedStream,
)

from grove_core.errors import LocalProtocolError
from grove_core.transport import Connection, ProtocolNotSupported, StreamClosed, StreamReset
from tests.plugins.fakes import Collector, Echo

ECHO = "/echo/1.0.0"


class Written(MuxedStream):
    """A stream whose muxer is a diary."""

    def __init__(self) -> None:
        super().__init__(cast(Connection, None), asyncio.get_running_loop())
        self.out = b""
        self.granted = 0
        self.finished = self.overs = 0
        self.aborts: list[int] = []

    def _send(self, data: bytes | memoryview) -> None:
        self.out += data

    def _grant(self, count: int) -> None:
        self.granted += count

    def _finish(self) -> None:
        self.finished += 1

    def _abort(self, code: int) -> None:
        self.aborts.append(code)

    def _over(self) -> None:
        self.overs += 1


def outbound() -> Written:
    """A stream that agreed on ECHO, its opening sent."""
    stream = Written()
    stream.propose([ECHO])
    stream.data_received(HEADER + message(ECHO))
    stream.sent(stream.buffered)
    stream.out, stream.granted = b"", 0
    return stream


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await main()

    asyncio.run(bounded())


# --- negotiation -----------------------------------------------------------------------------------


@pytest.mark.claim("libp2p.lazy-negotiation")
def test_one_candidate_costs_no_round_trip() -> None:
    async def main() -> None:
        stream = Written()
        stream.propose([ECHO])
        await stream.agreement()
        assert stream.protocol == ECHO
        stream.write(b"data")
        assert stream.out == HEADER + message(ECHO) + b"data"
        stream.data_received(HEADER + message(ECHO) + b"reply")
        assert await stream.read() == b"reply"
        stream.reset()

    run(main)


def test_several_candidates_are_tried_in_order() -> None:
    async def main() -> None:
        stream = Written()
        stream.propose(["/a", ECHO])
        waiting = asyncio.ensure_future(stream.agreement())
        stream.data_received(HEADER + NA)
        assert stream.out == HEADER + message("/a") + message(ECHO)
        assert not waiting.done()
        stream.data_received(message(ECHO))
        await waiting
        assert stream.protocol == ECHO
        stream.reset()

    run(main)


def test_a_refused_lazy_stream_says_so_at_the_first_read_and_is_reset() -> None:
    async def main() -> None:
        stream = Written()
        stream.propose([ECHO])
        stream.data_received(HEADER + NA)
        with pytest.raises(ProtocolNotSupported, match=ECHO):
            await stream.read()
        with pytest.raises(ProtocolNotSupported):
            stream.write(b"x")
        assert stream.aborts == [STREAM_NEGOTIATION_FAILED]

    run(main)


def test_refused_candidates_raise_from_the_opening() -> None:
    async def main() -> None:
        stream = Written()
        stream.propose(["/a", "/b"])
        waiting = asyncio.ensure_future(stream.agreement())
        await asyncio.sleep(0)
        stream.data_received(HEADER + NA + NA)
        with pytest.raises(ProtocolNotSupported):
            await waiting

    run(main)


@pytest.mark.parametrize("candidates", [[ECHO], ["/a", "/b"]])
def test_no_answer_in_time_ends_the_stream(
    candidates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "NEGOTIATION_TIMEOUT", 0.01)

    async def main() -> None:
        stream = Written()
        stream.propose(candidates)
        if len(candidates) > 1:
            with pytest.raises(TimeoutError, match="within"):
                await stream.agreement()
        else:
            with pytest.raises(StreamClosed, match="within"):
                await stream.read()
        assert stream.aborts == [STREAM_NEGOTIATION_FAILED]

    run(main)


def test_inbound_the_handler_is_called_after_the_agreement_and_gets_what_follows() -> None:
    async def main() -> None:
        stream, accepted = Written(), []

        def handler(agreed: Any) -> None:
            accepted.append(agreed.protocol)
            agreed.attach(Echo(agreed))

        stream.accept({ECHO: handler})
        assert stream.out == HEADER
        stream.data_received(HEADER + message("/other"))
        assert accepted == []
        stream.data_received(message(ECHO) + b"hello")
        assert accepted == [ECHO]
        assert stream.out == HEADER + NA + message(ECHO) + b"hello"
        assert stream.granted == len(HEADER + message("/other") + message(ECHO) + b"hello")
        stream.reset()

    run(main)


def test_garbage_instead_of_negotiation_resets_the_stream() -> None:
    async def main() -> None:
        stream = Written()
        stream.accept({})
        stream.data_received(b"GET / HTTP/1.1\r\n" * 100)
        assert stream.aborts == [STREAM_PROTOCOL_VIOLATION]
        assert stream.overs == 1
        stream.data_received(b"more")

    run(main)


def test_an_end_before_the_agreement_resets_the_stream() -> None:
    async def main() -> None:
        stream = Written()
        stream.accept({})
        stream.data_received(HEADER)
        stream.eof_received()
        assert stream.aborts == [STREAM_NEGOTIATION_FAILED]

    run(main)


def test_a_failing_handler_costs_its_stream_only_and_is_reported() -> None:
    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        stream = Written()
        stream.accept({ECHO: lambda stream: 1 / 0})  # type: ignore[dict-item,return-value]
        stream.data_received(HEADER + message(ECHO))
        assert stream.aborts == [STREAM_RESOURCE_LIMIT]
        assert isinstance(reports[0]["exception"], ZeroDivisionError)

    run(main)


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.claim("libp2p.credit-by-the-reader")
def test_credit_returns_as_bytes_are_read_and_not_before() -> None:
    async def main() -> None:
        stream = outbound()
        stream.data_received(b"abcdef")
        assert stream.granted == 0
        assert await stream.read(2) == b"ab"
        assert stream.granted == 2
        assert await stream.read_exactly(3) == b"cde"
        assert stream.granted == 5
        stream.reset()

    run(main)


def test_read_exactly_gathers_and_names_what_is_missing() -> None:
    async def main() -> None:
        stream = outbound()
        waiting = asyncio.ensure_future(stream.read_exactly(5))
        for piece in (b"ab", b"cdefg"):
            await asyncio.sleep(0)
            stream.data_received(piece)
        assert await waiting == b"abcde"
        stream.eof_received()
        with pytest.raises(StreamClosed, match="after 2 of 3 bytes"):
            await stream.read_exactly(3)
        assert await stream.read() == b""
        stream.reset()

    run(main)


def test_a_cancelled_read_exactly_puts_back_what_it_had() -> None:
    async def main() -> None:
        stream = outbound()
        stream.data_received(b"_ab")
        await stream.read(1)
        waiting = asyncio.ensure_future(stream.read_exactly(10))
        await asyncio.sleep(0)
        stream.data_received(b"cd")
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        stream.data_received(b"ef")
        assert await stream.read_exactly(6) == b"abcdef"
        stream.reset()

    run(main)


def test_two_readers_at_once_are_our_own_mistake() -> None:
    async def main() -> None:
        stream = outbound()
        first = asyncio.ensure_future(stream.read())
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError, match="two tasks"):
            await stream.read()
        stream.data_received(b"x")
        assert await first == b"x"
        stream.reset()

    run(main)


def test_a_sink_gets_what_was_buffered_then_what_comes_then_one_end() -> None:
    async def main() -> None:
        stream = outbound()
        stream.data_received(b"abc")
        await stream.read(1)
        sink = Collector(stream, grants=False)
        stream.attach(sink)
        assert list(sink.chunks) == [b"bc"]
        stream.data_received(b"d")
        assert stream.granted == 1
        stream.grant(3)
        assert stream.granted == 4
        stream.eof_received()
        assert sink.eof
        assert sink.ends == []
        stream.close_write()
        await sink.until(lambda: sink.ends)
        stream.connection_lost(StreamClosed("gone"))
        assert sink.ends == [None]
        assert stream.overs == 1

    run(main)


def test_a_sink_attached_after_the_end_still_hears_everything() -> None:
    async def main() -> None:
        stream = outbound()
        stream.close_write()
        stream.data_received(b"all")
        stream.eof_received()
        sink = Collector(stream)
        stream.attach(sink)
        await sink.until(lambda: sink.ends)
        assert (sink.data, sink.eof, sink.ends) == (b"all", True, [None])

    run(main)


def test_a_failing_sink_costs_its_stream_only() -> None:
    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        stream = outbound()
        sink = Collector(stream)
        sink.data_received = lambda data: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        stream.attach(sink)
        stream.data_received(b"x")
        assert stream.aborts == [STREAM_RESOURCE_LIMIT]
        assert len(reports) == 1

    run(main)


# --- writing ---------------------------------------------------------------------------------------


def test_what_may_change_is_copied_and_what_may_not_is_not() -> None:
    async def main() -> None:
        stream, given = outbound(), []
        stream._send = given.append  # type: ignore[method-assign,assignment]
        constant, changing = b"constant", bytearray(b"changing")
        stream.write(constant)
        stream.write(memoryview(constant))
        stream.write(changing)
        stream.write(memoryview(changing).toreadonly())
        changing[:] = b"modified"
        assert given[0] is constant
        assert given[1].obj is constant
        assert given[2:] == [b"changing", b"changing"]
        assert stream.buffered == 32
        stream.reset()

    run(main)


def test_drain_waits_until_at_most_256_kib_wait() -> None:
    async def main() -> None:
        stream = outbound()
        stream.write(b"x" * (DRAINED + 10))
        draining = asyncio.ensure_future(stream.drain())
        await asyncio.sleep(0)
        stream.sent(9)
        await asyncio.sleep(0)
        assert not draining.done()
        stream.sent(1)
        await draining
        stream.reset()

    run(main)


def test_a_broken_stream_ends_every_wait() -> None:
    async def main() -> None:
        stream = outbound()
        stream.write(b"x" * (DRAINED + 10))
        waits = [asyncio.ensure_future(stream.drain()), asyncio.ensure_future(stream.read())]
        await asyncio.sleep(0)
        stream.reset_received(0x1002)
        for wait in waits:
            with pytest.raises(StreamReset) as caught:
                await wait
            assert caught.value.code == 0x1002
        with pytest.raises(StreamReset):
            stream.write(b"x")
        assert stream.buffered == 0

    run(main)


def test_after_close_write_reading_goes_on() -> None:
    async def main() -> None:
        stream = outbound()
        stream.write(b"question")
        stream.close_write()
        stream.close_write()
        assert stream.finished == 1
        with pytest.raises(StreamClosed, match="finished"):
            stream.write(b"x")
        stream.data_received(b"answer")
        stream.eof_received()
        assert stream.overs == 0  # the question has not left
        stream.sent(8)
        assert stream.overs == 1
        assert await stream.read() == b"answer"
        assert await stream.read() == b""

    run(main)


def test_reset_tells_the_sink_in_the_next_turn() -> None:
    async def main() -> None:
        stream = outbound()
        sink = Collector(stream)
        stream.attach(sink)
        stream.reset(5)
        stream.reset(6)
        assert sink.ends == []
        assert stream.aborts == [5]
        await sink.until(lambda: sink.ends)
        assert isinstance(sink.ends[0], StreamClosed)

    run(main)


def test_what_came_in_order_survives_the_loss_of_the_connection() -> None:
    async def main() -> None:
        stream, other = outbound(), outbound()
        for each in (stream, other):
            each.data_received(b"all of it")
        stream.eof_received()
        for each in (stream, other):
            each.connection_lost(StreamClosed("connection gone"))
        assert await stream.read() == b"all of it"
        assert await stream.read() == b""
        assert await other.read() == b"all of it"
        with pytest.raises(StreamClosed, match="connection gone"):
            await other.read()

    run(main)


def test_a_remote_that_stops_reading_ends_our_direction_only() -> None:  # QUIC STOP_SENDING
    async def main() -> None:
        stream = outbound()
        stream.write(b"x" * (DRAINED + 1))
        stream.stop_received(7)
        with pytest.raises(StreamReset):
            stream.write(b"x")
        with pytest.raises(StreamReset):
            await stream.drain()
        stream.data_received(b"still")
        assert await stream.read() == b"still"
        stream.eof_received()
        assert stream.overs == 1

    run(main)
