"""Message streams as a remote meets them: frames, order, bounds, and what happens to bad ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from grove_core import Node, varint
from grove_core.drive import exchange, links
from grove_core.node import Limits
from grove_core.testing.memory import WINDOW, MemoryNetwork
from grove_core.transport import PROTOCOL_VIOLATION, RESOURCE_LIMIT_EXCEEDED, StreamReset
from tests.core.houses import idled, know, node, run
from tests.core.probe import CODEC, DOMAIN, Note, Probe, Question, Signed, probe
from tests.core.rogue import Ear, Rogue, turns, until

PROBE = "/grove/probe/1.0.0"
RPC = "/grove/probe/rpc/1.0.0"


def frame(msg: Any) -> bytes:
    body = CODEC.encode(msg)
    return varint.encode(len(body)) + body


def machine(of: Node) -> Probe:
    found: Probe = of.plugin("probe").machine
    return found


def frames(data: bytes) -> list[Any]:
    found = []
    at = 0
    while at < len(data):
        size, at = varint.decode(data, at)
        found.append(CODEC.decode(data[at : at + size]))
        at += size
    return found


# Frames.


def test_frames_may_be_cut_anywhere(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            stream = await (await rogue.meet(home)).open_stream([PROBE])
            wanted = [Note("x" * size) for size in (0, 1, 118, 119, 120, 121, 122, 123, 200, 4000)]
            for byte in b"".join(map(frame, wanted)):
                stream.write(bytes((byte,)))
            await until(lambda: len(machine(home).texts()) == len(wanted))
            assert machine(home).texts() == [note.text for note in wanted]

    run(main)


@pytest.mark.claim("links.one-write-per-turn")
def test_what_is_sent_in_one_turn_leaves_in_one_write_per_peer(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            rogue.serve(PROBE)
            await rogue.meet(home)
            call = home.plugin("probe").call
            call(lambda machine, ctx: ctx.send(rogue.peer, Note("opens the stream")))
            await until(lambda: bool(rogue.ears[PROBE]) and bool(rogue.ears[PROBE][0].chunks))
            for n in range(100):
                call(lambda machine, ctx, n=n: ctx.send(rogue.peer, Note(str(n))))
            (ear,) = rogue.ears[PROBE]
            await until(lambda: len(ear.chunks) == 2)
            assert [note.text for note in frames(ear.chunks[1])] == [str(n) for n in range(100)]
            assert home.counters["sent.probe"] == 101

    run(main)


# What a remote may not do.


@pytest.mark.claim("links.bad-input-disconnects")
@pytest.mark.parametrize(
    "bad",
    [
        varint.encode(CODEC.max_size + 1),  # refused by its length, the body never comes
        b"\xff" * 9,
        b"\x80\x00",
        b"\x00",
        frame(Note("fine"))[:-1] + b"\xc1",
        b"\x05" + b"\xc1" * 5,
    ],
    ids=["too long", "endless length", "length not minimal", "empty", "cut text", "garbage"],
)
def test_a_frame_that_is_none_costs_the_connection(tmp_path: Path, bad: bytes) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            connection: Any = await rogue.meet(home)
            stream = await connection.open_stream([PROBE])
            stream.write(frame(Note("good")) + bad + frame(Note("never seen")))
            await until(lambda: bool(rogue.ends))
            assert connection.code == PROTOCOL_VIOLATION
            assert machine(home).texts() == ["good"]
            assert machine(home).log[-1] == ("down", rogue.peer)
            assert home.counters["refused.message"] == 1
            assert home.connections() == ()

    run(main)


def test_a_codec_that_breaks_its_word_costs_the_sender_and_not_the_node(tmp_path: Path) -> None:
    class Careless:
        max_size = 100

        def encode(self, msg: Any) -> bytes:
            return b""

        def decode(self, data: bytes) -> Any:
            raise KeyError("surprise")

    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe(codec=Careless())) as home:
            rogue = Rogue(network)
            stream = await (await rogue.meet(home)).open_stream([PROBE])
            stream.write(b"\x01x")
            await until(lambda: bool(rogue.ends))
            assert home.failures == {}

    run(main)


@pytest.mark.claim("links.bounded-streams")
def test_streams_without_end_are_reset_beyond_the_bound(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe(requests=3)) as home:
            rogue = Rogue(network)
            connection = await rogue.meet(home)
            messages = [Ear(await connection.open_stream([PROBE])) for _ in range(10)]
            await until(lambda: all(ear.lost for ear in messages[: -links.INBOUND_STREAMS]))
            questions = [Ear(await connection.open_stream([RPC])) for _ in range(10)]
            await until(lambda: all(ear.lost for ear in questions[3:]))
            for ear in messages[: -links.INBOUND_STREAMS] + questions[3:]:
                assert isinstance(ear.lost[0], StreamReset)
                assert ear.lost[0].code == links.STREAM_LIMIT
            messages[-1].stream.write(frame(Note("the newest is heard")))
            await until(lambda: machine(home).texts() == ["the newest is heard"])
            assert not any(ear.lost for ear in messages[-links.INBOUND_STREAMS :] + questions[:3])
            assert home.counters["refused.streams"] == 10 - links.INBOUND_STREAMS
            assert home.counters["refused.requests"] == 7

    run(main)


@pytest.mark.claim("links.bounded-queue")
@pytest.mark.parametrize("overflow", ["drop", "disconnect"])
def test_a_peer_that_never_reads_costs_a_bounded_queue(tmp_path: Path, overflow: str) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        part = probe(queue=50, overflow=overflow)
        async with node(network, tmp_path, 1, part) as home:
            rogue = Rogue(network)
            rogue.eager = False
            rogue.serve(PROBE)
            connection: Any = await rogue.meet(home)
            call = home.plugin("probe").call
            drive: Any = home._drive
            lane = drive.contexts[0]._lane
            for n in range(600):
                call(lambda machine, ctx, n=n: ctx.send(rogue.peer, Note(str(n) + "x" * 4000)))
                if n % 10 == 0:
                    await asyncio.sleep(0)
                out = lane._outs.get(rogue.peer)
                if out is not None:
                    assert len(out.queue) <= 50
                    assert out.buffered <= links.WRITE_AHEAD + 50 * 4100
            assert home.counters["dropped.queue"] > 0
            if overflow == "disconnect":
                await until(lambda: bool(rogue.ends))
                assert "more than 50 messages wait" in rogue.ends[0]
                assert connection.code == RESOURCE_LIMIT_EXCEEDED
            else:
                await asyncio.sleep(0)
                assert rogue.ends == []
                heard = [int(note.text.partition("x")[0]) for note in frames_whole(rogue)]
                assert heard == list(range(len(heard)))  # the newest were dropped, not the order

    def frames_whole(rogue: Rogue) -> list[Any]:
        data = rogue.ears[PROBE][0].heard
        while True:  # the last frame may be cut by the window
            try:
                return frames(data)
            except Exception:
                data = data[:-1]

    run(main)


@pytest.mark.claim("links.urgent-first")
def test_what_is_urgent_leaves_ahead_of_what_waits(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        part = probe(urgent=lambda msg: msg.text.startswith("!"))
        async with node(network, tmp_path, 1, part) as home:
            rogue = Rogue(network)
            rogue.eager = False
            rogue.serve(PROBE)
            await rogue.meet(home)
            call = home.plugin("probe").call
            drive: Any = home._drive
            for n in range(300):
                call(lambda machine, ctx, n=n: ctx.send(rogue.peer, Note(str(n) + "x" * 4000)))
                await asyncio.sleep(0)
            await until(lambda: bool(drive.contexts[0]._lane._outs[rogue.peer].is_busy))
            out = drive.contexts[0]._lane._outs[rogue.peer]
            for text in ("!one", "last", "!two"):
                call(lambda machine, ctx, text=text: ctx.send(rogue.peer, Note(text)))
            waiting = [frames(data)[0].text for data in out.queue]
            assert waiting[:2] == ["!one", "!two"]
            assert waiting[-1] == "last"
            numbers = [int(text.partition("x")[0]) for text in waiting[2:-1]]
            assert numbers == sorted(numbers)

    run(main)


def test_messages_to_a_peer_that_cannot_be_reached_are_dropped_and_counted(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            nobody = Rogue(network).peer
            home.plugin("probe").call(lambda machine, ctx: [ctx.send(nobody, Note("?"))] * 3)
            await until(lambda: home.counters.get("dropped.unreachable") == 1)

    run(main)


def test_messages_to_a_peer_that_does_not_speak_the_protocol_are_dropped_and_counted(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            await rogue.meet(home)
            home.plugin("probe").call(lambda machine, ctx: ctx.send(rogue.peer, Note("?")))
            drive: Any = home._drive
            await until(lambda: not drive.contexts[0]._lane._outs)
            assert len(home.connections()) == 1

    run(main)


# Proofs.


@pytest.mark.claim("links.order-with-proofs")
def test_messages_stay_in_order_when_some_need_verification(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            stream = await (await rogue.meet(home)).open_stream([PROBE])
            sign = rogue.identity.sign
            for n in range(90):
                text = str(n)
                signed = Signed(rogue.peer, text, sign(DOMAIN + text.encode()))
                stream.write(frame(signed if n % 3 else Note(text)))
            await until(lambda: len(machine(home).texts()) == 90)
            assert machine(home).texts() == [str(n) for n in range(90)]

    run(main)


def test_a_small_frame_behind_a_large_signed_one_that_came_in_pieces_is_heard(tmp_path: Path) -> None:
    """What the large one needed must not be asked of the small one: it would wait for more to come."""

    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            stream = await (await rogue.meet(home)).open_stream([PROBE])
            text = "x" * 3000
            large = frame(Signed(rogue.peer, text, rogue.identity.sign(DOMAIN + text.encode())))
            stream.write(large[:1000])
            await turns(50)
            stream.write(large[1000:])
            await until(lambda: machine(home).texts() == [text])
            stream.write(frame(Note("small")))
            await until(lambda: machine(home).texts() == [text, "small"])

    run(main)


def test_more_signed_messages_than_the_window_holds_keep_flowing(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            stream = await (await rogue.meet(home)).open_stream([PROBE])
            count = 3 * WINDOW // 4000
            text = "x" * 3900
            once = frame(Signed(rogue.peer, text, rogue.identity.sign(DOMAIN + text.encode())))
            stream.write(once * count)
            await until(lambda: len(machine(home).texts()) == count)
            checks: Any = home._drive
            assert len(checks.links.checks._good) == 1  # the same proof is computed once

    run(main)


@pytest.mark.claim("links.heard-before-down")
def test_what_arrived_before_a_loss_is_heard_before_it(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            connection = await rogue.meet(home)
            stream = await connection.open_stream([PROBE])
            for n in range(60):  # more than one slice of checks
                text = str(n)
                signature = rogue.identity.sign(DOMAIN + text.encode())
                stream.write(frame(Signed(rogue.peer, text, signature)))
            connection.close()
            await until(lambda: bool(machine(home).seen("down")))
            assert machine(home).texts() == [str(n) for n in range(60)]
            assert machine(home).log[-1] == ("down", rogue.peer)

    run(main)


@pytest.mark.claim("links.fair-turns")
def test_a_flood_from_one_peer_delays_the_others_by_a_turn_only(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            flood, quiet = Rogue(network, 50), Rogue(network, 51)
            streams = [await (await one.meet(home)).open_stream([PROBE]) for one in (flood, quiet)]
            text = "a signature each"
            for n in range(300):
                signature = flood.identity.sign(DOMAIN + f"{text} {n}".encode())
                streams[0].write(frame(Signed(flood.peer, f"{text} {n}", signature)))
            streams[0].write(frame(Note("plain")) * 20_000)
            signature = quiet.identity.sign(DOMAIN + b"just one")
            streams[1].write(frame(Signed(quiet.peer, "just one", signature)))
            await until(lambda: "just one" in machine(home).texts())
            assert machine(home).texts().index("just one") < 100
            await until(lambda: len(machine(home).texts()) == 20_301)
            assert [text for text in machine(home).texts() if text.endswith(("0", "5"))][:3] == [
                f"{text} {n}" for n in (0, 5, 10)
            ]

    run(main)


# The life of a stream.


@pytest.mark.claim("links.held-is-seen")
def test_a_held_peer_gets_a_stream_before_anything_is_said_and_its_end_when_let_go(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe(), limits=Limits(idle=0.1)) as home:
            rogue = Rogue(network)
            rogue.serve(PROBE)
            await rogue.meet(home)
            call = home.plugin("probe").call
            call(lambda machine, ctx: ctx.connect(rogue.peer))
            await until(lambda: bool(rogue.ears[PROBE]))
            (ear,) = rogue.ears[PROBE]
            await idled(home)
            assert not ear.at_end
            call(lambda machine, ctx: ctx.disconnect(rogue.peer))
            await until(lambda: ear.at_end)
            assert rogue.ends == []  # our side of the stream is still open: it may be wanted here
            ear.stream.close_write()
            await until(lambda: bool(rogue.ends))
            assert machine(home).log[-1] == ("down", rogue.peer)

    run(main)


@pytest.mark.claim("links.renewed-stream-is-told")
def test_after_a_reset_a_new_stream_is_opened_and_the_peer_is_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "REOPEN", 0.01)

    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            rogue.serve(PROBE)
            await rogue.meet(home)
            call = home.plugin("probe").call
            call(lambda machine, ctx: ctx.send(rogue.peer, Note("one")))
            await until(lambda: bool(rogue.ears[PROBE]) and bool(rogue.ears[PROBE][0].chunks))
            rogue.ears[PROBE][0].stream.reset()
            ups = [entry for entry in machine(home).log if entry == ("up", rogue.peer)]
            await until(lambda: len(rogue.ears[PROBE]) == 2)
            await until(lambda: machine(home).log.count(("up", rogue.peer)) == len(ups) + 1)
            assert ("down", rogue.peer) not in machine(home).log
            call(lambda machine, ctx: ctx.send(rogue.peer, Note("two")))
            await until(lambda: len(rogue.ears[PROBE]) == 2 and bool(rogue.ears[PROBE][1].chunks))
            assert frames(rogue.ears[PROBE][1].heard) == [Note("two")]

    run(main)


def test_two_nodes_that_dial_each_other_at_once_lose_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with (
            node(network, tmp_path, 1, probe()) as a,
            node(network, tmp_path, 2, probe()) as b,
        ):
            know(a, b)
            for one, other in ((a, b), (b, a)):
                one.plugin("probe").call(
                    lambda machine, ctx, other=other: [
                        ctx.send(other.peer, Note(str(n))) for n in range(50)
                    ]
                )
            for one in (a, b):
                await until(lambda one=one: len(machine(one).texts()) == 50)
                assert machine(one).texts() == [str(n) for n in range(50)]
                assert 1 <= len(one.connections()) <= 2

    run(main)


# Questions on the wire (exchange.py).


@pytest.mark.claim("exchange.bounded")
def test_questions_one_after_the_other_on_one_stream_are_answered_in_turn(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            tokens: list[Any] = []
            machine(home).script["request"] = lambda ctx, peer, msg, token: tokens.append((msg, token))
            rogue = Rogue(network)
            ear = Ear(await (await rogue.meet(home)).open_stream([RPC]))
            ear.stream.write(b"".join(frame(Question(str(n))) for n in range(3)))
            for n in range(3):
                await until(lambda n=n: len(tokens) == n + 1)
                msg, token = tokens[n]
                home.plugin("probe").call(
                    lambda machine, ctx, msg=msg, token=token: ctx.reply(token, Note(msg.text))
                )
            ear.stream.close_write()
            await until(lambda: ear.at_end)
            assert [note.text for note in frames(ear.heard)] == ["0", "1", "2"]

    run(main)


def test_a_question_answered_inside_its_own_input_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with (
            node(network, tmp_path, 1, probe()) as a,
            node(network, tmp_path, 2, probe()) as b,
        ):
            know(a, b)
            machine(b).script["request"] = lambda ctx, peer, msg, token: ctx.reply(token, Note(msg.text))
            a.plugin("probe").call(
                lambda machine, ctx: [ctx.request(b.peer, Question(str(n)), n, 10.0) for n in range(20)]
            )
            await until(lambda: len(machine(a).seen("reply")) == 20)
            assert [(key, note.text) for key, _, note in machine(a).seen("reply")] == [
                (n, str(n)) for n in range(20)
            ]
            await until(lambda: b.connections()[0].stream_count == 0)

    run(main)


@pytest.mark.claim("exchange.bounded")
def test_questions_that_wait_are_bounded_per_peer_over_all_its_streams(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            connection = await rogue.meet(home)
            ears = [Ear(await connection.open_stream([RPC])) for _ in range(20)]
            for ear in ears:
                ear.stream.write(frame(Question("x" * 1000)) * 100)
            await until(lambda: sum(bool(ear.lost) for ear in ears) >= 15)
            drive: Any = home._drive
            desk = drive.contexts[0]._desk
            kept = [len(served._buffer) for served in desk._served[rogue.peer]]
            assert sum(kept) == desk._unread[rogue.peer] <= exchange.UNREAD + CODEC.max_size
            assert len(machine(home).seen("request")) >= len(kept)  # one of each stream is being answered
            connection.close()
            await until(lambda: not desk._served)
            assert desk._unread == {}

    run(main)


def test_who_does_not_read_our_answers_is_asked_no_further(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            machine(home).script["request"] = lambda ctx, peer, msg, token: ctx.reply(
                token, Note("y" * 4000)
            )
            rogue = Rogue(network)
            ear = Ear(await (await rogue.meet(home)).open_stream([RPC]), eager=False)
            for _ in range(60):
                ear.stream.write(frame(Question("x")) * 10)
                await asyncio.sleep(0)
            drive: Any = home._drive
            (served,) = drive.contexts[0]._desk._served[rogue.peer]
            await until(lambda: served._draining is not None)
            asked = len(machine(home).seen("request"))
            assert served.stream.buffered <= links.WRITE_AHEAD + 4100
            assert asked < 150
            ear.stream.grant(len(ear.heard))
            ear.eager = True
            await until(lambda: len(machine(home).seen("request")) == 600)

    run(main)


def test_bad_answers_and_silence_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            rogue.serve(RPC)
            await rogue.meet(home)
            for reason, act in (
                ("invalid", lambda ear: ear.stream.write(b"\x02\xc1\xc1")),
                ("invalid", lambda ear: ear.stream.write(varint.encode(1 << 20))),
                ("refused", lambda ear: ear.stream.close_write()),
                ("refused", lambda ear: ear.stream.reset(links.STREAM_LIMIT)),
                ("unreachable", lambda ear: rogue.connections[0].close()),
            ):
                before = len(machine(home).seen("failure"))
                asked = len(rogue.ears[RPC])
                home.plugin("probe").call(
                    lambda machine, ctx: ctx.request(rogue.peer, Question("?"), "k", 10.0)
                )
                await until(lambda asked=asked: len(rogue.ears[RPC]) > asked)
                act(rogue.ears[RPC][-1])
                await until(lambda before=before: len(machine(home).seen("failure")) > before)
                assert machine(home).seen("failure")[-1] == ("k", rogue.peer, reason)

    run(main)


def test_asking_anew_under_the_same_key_forgets_the_older_question(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with (
            node(network, tmp_path, 1, probe()) as a,
            node(network, tmp_path, 2, probe()) as b,
        ):
            know(a, b)
            machine(b).script["request"] = lambda ctx, peer, msg, token: ctx.reply(token, Note(msg.text))

            def ask(machine: Any, ctx: Any) -> None:
                ctx.request(b.peer, Question("old"), "k", 10.0)
                ctx.request(b.peer, Question("new"), "k", 10.0)

            a.plugin("probe").call(ask)
            await until(lambda: bool(machine(a).seen("reply")))
            await turns()
            assert [note.text for _, _, note in machine(a).seen("reply")] == ["new"]
            assert machine(a).seen("failure") == []

    run(main)
