"""What the real driver adds to the contract: failures stay where they are, and everything is bounded."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from grove_core import Node
from grove_core.drive import aio, live, swarm
from grove_core.drive.records import Records
from grove_core.drive.store import StoreError
from grove_core.errors import LocalProtocolError, Unreachable
from grove_core.events import Connected, Disconnected, PeerFound
from grove_core.machine import CONNECT, PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits
from grove_core.record import sign_record, verify_record
from grove_core.testing.memory import MemoryNetwork
from grove_core.transport import Connection
from tests.core.houses import know, node, run
from tests.core.probe import CODEC, Happened, Note, Probe, Question, probe
from tests.core.rogue import Rogue, turns, until
from tests.core.test_links import PROBE, frame

NOBODY = PeerId(b"\x00\x24\x08\x01\x12\x20" + b"\x07" * 32)


def machine(of: Node, name: str = "probe") -> Probe:
    found: Probe = of.plugin(name).machine
    return found


# A machine that raises (rule 8 of the driver).


@pytest.mark.claim("drive.failure-isolated")
def test_a_machine_that_raises_is_stopped_and_the_node_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        parts = (probe("good"), probe("bad"))
        async with (
            node(network, tmp_path, 1, *parts) as home,
            node(network, tmp_path, 2, *parts) as other,
        ):
            know(home, other)

            def fall(ctx: Any, peer: PeerId, msg: Note) -> None:
                ctx.save("half", b"done")
                ctx.send(peer, Note("never leaves"))
                ctx.set_timer("never", 0.0)
                raise ZeroDivisionError("a bug")

            machine(home, "bad").script["message"] = fall
            with caplog.at_level(logging.CRITICAL):  # the traceback is expected; keep it off the screen
                for text in ("first", "second"):
                    other.plugin("bad").call(lambda m, ctx, text=text: ctx.send(home.peer, Note(text)))
                    await until(lambda: bool(home.failures))
            assert home.failures == {"bad": "ZeroDivisionError: a bug"}
            assert home.counters["failed.bad"] == 1
            assert len(machine(home, "bad").seen("message")) == 1
            assert PROBE.replace("probe", "bad") not in home.protocols
            with pytest.raises(LocalProtocolError, match="bad was stopped because it raised ZeroDiv"):
                home.plugin("bad").call(lambda m, ctx: None)

            other.plugin("good").call(lambda m, ctx: ctx.send(home.peer, Note("still there?")))
            await until(lambda: machine(home, "good").texts() == ["still there?"])
            await turns()
            assert machine(other, "bad").texts() == []
            assert machine(home, "bad").seen("timer") == []
            assert home._store is not None
            assert home._store.load("bad", "half") is None

    run(main)


def test_in_strict_mode_a_machine_that_raises_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GROVE_STRICT", "1")

    async def main() -> None:
        told: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, what: told.append(what["exception"])
        )
        home = node(MemoryNetwork(), tmp_path, 1, probe())
        await home.start()

        def fall(ctx: Any, key: str) -> None:
            raise ZeroDivisionError("a bug")

        machine(home).script["timer"] = fall
        with caplog.at_level(logging.CRITICAL + 1):
            home.plugin("probe").call(lambda m, ctx: ctx.set_timer("t", 0.0))
            with pytest.raises(ZeroDivisionError):
                await home.wait_closed()
        assert [type(error) for error in told] == [ZeroDivisionError]
        await home.stop()

    run(main)


def test_a_call_that_is_refused_leaves_the_machine_as_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(MemoryNetwork(), tmp_path, 1, probe(), probe("ear")) as home:

            def refuse(m: Any, ctx: Any) -> None:
                ctx.emit(Happened("not really"))
                ctx.save("k", b"v")
                raise LocalProtocolError("too long")

            call = home.plugin("probe").call
            with pytest.raises(LocalProtocolError, match="too long"):
                call(refuse)
            assert call(lambda m, ctx: (ctx.load("k"), ctx.saved())) == (None, ())
            assert machine(home, "ear").seen("event") == []
            assert home.failures == {}

    run(main)


def test_a_handle_may_not_be_used_from_inside_a_machine(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(MemoryNetwork(), tmp_path, 1, probe(), probe("other")) as home:

            def sneak(m: Any, ctx: Any) -> None:
                home.plugin("other").call(lambda m, ctx: None)

            with pytest.raises(LocalProtocolError, match="from inside a machine's input"):
                home.plugin("probe").call(sneak)

    run(main)


# Events.


@pytest.mark.claim("drive.events-fifo")
def test_the_application_hears_an_event_after_the_siblings(tmp_path: Path) -> None:
    async def main() -> None:
        parts = (probe("a"), probe("b"), probe("c"))
        async with node(MemoryNetwork(), tmp_path, 1, *parts) as home, home.watch(Happened) as events:
            order: list[str] = []
            inside: Any = home._inside
            publish = inside.published
            inside.published = lambda event: (order.append(f"app {event.text}"), publish(event))
            machine(home, "b").script["event"] = lambda ctx, event: (
                order.append(f"b {event.text}"),
                ctx.emit(Happened(event.text + "'")),
            )
            machine(home, "c").script["event"] = lambda ctx, event: order.append(f"c {event.text}")
            home.plugin("a").call(lambda m, ctx: [ctx.emit(Happened("1")), ctx.emit(Happened("2"))])
            assert order == [
                *("b 1", "c 1", "app 1", "b 2", "c 2", "app 2"),
                *("c 1'", "app 1'", "c 2'", "app 2'"),
            ]
            assert [await events.next() for _ in range(4)] == [
                Happened(text) for text in ("1", "2", "1'", "2'")
            ]

    run(main)


def test_a_watch_that_is_not_read_keeps_the_newest_and_counts_the_rest(tmp_path: Path) -> None:
    async def main() -> None:
        home = node(MemoryNetwork(), tmp_path, 1, probe())
        async with home, home.watch(Happened, limit=10) as events:
            for n in range(25):
                home.plugin("probe").call(lambda m, ctx, n=n: ctx.emit(Happened(str(n))))
            assert events.missed == 15
            assert await events.next() == Happened("15")
        rest = [event async for event in events]
        assert len(rest) == 9  # what came before the end is still read; then iteration ends
        with pytest.raises(LocalProtocolError):
            await events.next()

    run(main)


# Peers.


@pytest.mark.claim("drive.greeted-first")
def test_a_peer_is_announced_after_its_greeting_and_heard_after_its_announcement(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe("probe"), probe("y")) as home:
            gate = asyncio.Event()

            async def greet(connection: Connection) -> None:
                await gate.wait()
                home.peers.learn(connection.peer, protocols=[PROBE], agent="rogue/1")

            home.greet(greet)
            async with home.watch(Connected, Disconnected) as events:
                rogue = Rogue(network)
                connection = await rogue.transport.dial(home.addresses[0], home.peer)
                stream = await connection.open_stream([PROBE])
                stream.write(frame(Note("early")))
                await turns()
                assert machine(home).log == [("start",)]
                gate.set()
                await until(lambda: bool(machine(home).texts()))
                assert [entry[0] for entry in machine(home).log] == ["start", "up", "message"]
                assert machine(home, "y").seen("up") == []
                told = await events.next()
                assert isinstance(told, Connected)
                assert (told.peer, told.inbound, told.agent) == (rogue.peer, True, "rogue/1")
                connection.close(0, "bye")
                assert await events.next() == Disconnected(rogue.peer, "bye")

    run(main)


@pytest.mark.claim("drive.greeted-first")
def test_a_greeting_without_end_is_cut_and_the_peer_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm, "GREETING", 0.05)

    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:

            async def greet(connection: Connection) -> None:
                await asyncio.Event().wait()

            async def fail(connection: Connection) -> None:
                raise Unreachable("as it happens")

            home.greet(greet)
            home.greet(fail)
            await Rogue(network).meet(home)
            assert len(machine(home).seen("up")) == 1
            assert home.counters["failed.greeting"] == 2

    run(main)


def test_a_peer_that_learns_a_protocol_later_is_announced_then(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            home.peers.learn(rogue.peer, protocols=["/other/1.0.0"])
            await rogue.meet(home)
            assert machine(home).seen("up") == []
            home.peers.learn(rogue.peer, protocols=["/other/1.0.0", PROBE])  # as identify/push does
            assert machine(home).seen("up") == [(rogue.peer,)]
            home.peers.learn(rogue.peer, protocols=[PROBE])
            assert len(machine(home).seen("up")) == 1

    run(main)


@pytest.mark.claim("drive.dials-merged")
def test_everybody_who_wants_a_peer_shares_one_dial(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        parts = (probe("x"), probe("y"))
        async with (
            node(network, tmp_path, 1, *parts) as home,
            node(network, tmp_path, 2, *parts) as other,
        ):
            know(home, other)
            for name in ("x", "y"):
                home.plugin(name).call(
                    lambda m, ctx: [
                        ctx.connect(other.peer),
                        ctx.send(other.peer, Note("hello")),
                        ctx.request(other.peer, Question("?"), "q", 0.2),
                    ]
                )
            await asyncio.gather(*(home.connect(other.peer) for _ in range(5)))
            for name in ("x", "y"):
                await until(lambda name=name: machine(other, name).texts() == ["hello"])
                assert machine(home, name).seen("up") == [(other.peer,)]
            assert home.counters["dials"] == 1
            assert len(home.connections()) == 1

    run(main)


@pytest.mark.claim("drive.connect-answered")
def test_a_connect_to_oneself_or_to_somebody_who_closes_at_once_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        denied = node(network, tmp_path, 2, probe(), limits=Limits(connections=0))
        async with node(network, tmp_path, 1, probe()) as home, denied as other:
            know(home, other)
            call = home.plugin("probe").call
            call(lambda m, ctx: [ctx.connect(home.peer), ctx.connect(other.peer)])
            await until(lambda: len(machine(home).seen("failure")) == 2)
            assert machine(home).seen("failure") == [
                (CONNECT, home.peer, "unreachable"),
                (CONNECT, other.peer, "unreachable"),
            ]
            with pytest.raises(Unreachable, match=r"could not be reached: /memory/2: .*refused"):
                await home.connect(other.peer)

    run(main)


def test_a_connect_taken_back_before_it_succeeds_is_answered_and_not_held(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        limits = Limits(idle=0.05)
        async with (
            node(network, tmp_path, 1, probe(), limits=limits) as home,
            node(network, tmp_path, 2, probe(), limits=limits) as other,
        ):
            know(home, other)
            home.plugin("probe").call(
                lambda m, ctx: [ctx.connect(other.peer), ctx.disconnect(other.peer)]
            )
            await until(lambda: bool(machine(home).seen("down")))
            assert machine(home).seen("up") == [(other.peer,)]

    run(main)


def test_the_last_of_several_connections_is_the_end_of_a_peer(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe()) as home:
            rogue = Rogue(network)
            first = await rogue.meet(home)
            second = await rogue.transport.dial(home.addresses[0], home.peer)
            await until(lambda: len(home.connections()) == 2)
            await turns()
            first.close()
            await until(lambda: len(home.connections()) == 1)
            stream = await second.open_stream([PROBE])
            stream.write(frame(Note("still here")))
            await until(lambda: machine(home).texts() == ["still here"])
            second.close()
            await until(lambda: bool(machine(home).seen("down")))
            assert [entry[0] for entry in machine(home).log] == ["start", "up", "message", "down"]

    run(main)


# Records of peers.


@pytest.mark.claim("drive.records-verified")
def test_a_record_that_was_found_is_verified_before_siblings_act_on_it(tmp_path: Path) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        async with node(network, tmp_path, 1, probe(), probe("finder")) as home:
            rogue = await Rogue(network, 77).listen()
            record = sign_record(rogue.identity, 5, [rogue.address])
            seen: list[Any] = []
            machine(home).script["event"] = lambda ctx, event: (
                seen.append((home.peers.get(event.peer).addresses, ctx.record(event.peer))),
                ctx.connect(event.peer),
            )
            home.plugin("finder").call(lambda m, ctx: ctx.emit(PeerFound(rogue.peer, record)))
            assert seen == [((rogue.address,), record)]
            await until(lambda: machine(home).seen("up") == [(rogue.peer,)])

            forged = record[:-1] + bytes((record[-1] ^ 1,))
            other = Rogue(network, 78)
            home.plugin("finder").call(lambda m, ctx: ctx.emit(PeerFound(other.peer, forged)))
            home.plugin("finder").call(lambda m, ctx: ctx.emit(PeerFound(other.peer, record[:40])))
            assert home.peers.get(other.peer).addresses == ()
            assert home.counters["refused.record"] == 2
            older = sign_record(rogue.identity, 4, [Multiaddr.parse("/memory/1234")])
            home.plugin("finder").call(lambda m, ctx: ctx.emit(PeerFound(rogue.peer, older)))
            assert home.peers.get(rogue.peer).addresses == (rogue.address,)
            own = home.plugin("probe").call(lambda m, ctx: ctx.record(home.peer))
            assert verify_record(own).addresses == home.addresses

    run(main)


def test_a_flood_of_records_is_verified_at_a_bounded_rate(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(MemoryNetwork(), tmp_path, 1, probe()) as home:
            before = len(home.peers)  # type: ignore[arg-type]
            for n in range(live.RECORDS_BURST + 100):
                garbage = n.to_bytes(4, "big")
                home.plugin("probe").call(lambda m, ctx, g=garbage: ctx.emit(PeerFound(NOBODY, g)))
            assert home.counters["dropped.record"] >= 50
            assert home.counters["refused.record"] >= live.RECORDS_BURST
            assert len(home.peers) == before  # type: ignore[arg-type]

    run(main)


# Records of machines.


@pytest.mark.claim("drive.disk-failure-is-fatal")
def test_when_the_disk_fails_nothing_leaves_any_more_and_the_node_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = Records.commit
    broken = threading.Event()

    def fail(records: Records, batch: Any) -> None:
        if broken.is_set():
            raise OSError(5, "Input/output error")
        commit(records, batch)

    monkeypatch.setattr(Records, "commit", fail)

    async def main() -> None:
        network = MemoryNetwork()
        home = node(network, tmp_path, 1, probe())
        async with node(network, tmp_path, 2, probe()) as other:
            await home.start()
            know(home, other)
            await home.connect(other.peer)
            broken.set()

            def vote(m: Any, ctx: Any) -> None:
                ctx.save("vote", b"x")
                ctx.send(other.peer, Note("I voted"))

            with caplog.at_level(logging.CRITICAL + 1):
                home.plugin("probe").call(vote)
                with pytest.raises(StoreError, match=r"Input/output error.*repair the disk"):
                    await home.wait_closed()
            await until(lambda: other.connections() == ())
            assert machine(other).texts() == []
            broken.clear()
            again = node(network, tmp_path, 1, probe())  # the folder was given back
            async with again:
                assert again.plugin("probe").call(lambda m, ctx: ctx.load("vote")) is None

    run(main)


@pytest.mark.claim("drive.barrier-bounded")
def test_what_waits_behind_a_stalled_disk_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    commit = Records.commit
    monkeypatch.setattr(Records, "commit", lambda self, batch: (gate.wait(10), commit(self, batch)))
    monkeypatch.setattr(aio, "HELD", 100)

    async def main() -> None:
        network = MemoryNetwork()
        async with (
            node(network, tmp_path, 1, probe()) as home,
            node(network, tmp_path, 2, probe()) as other,
        ):
            know(home, other)
            home.plugin("probe").call(lambda m, ctx: ctx.save("k", b"v"))
            for n in range(300):
                home.plugin("probe").call(lambda m, ctx, n=n: ctx.send(other.peer, Note(str(n))))
            assert home.counters["dropped.held"] == 200
            assert machine(other).texts() == []
            gate.set()
            await until(lambda: len(machine(other).texts()) == 100)
            assert machine(other).texts() == [str(n) for n in range(100)]

    run(main)


@pytest.mark.claim("drive.barrier-holds-everything-that-leaves")
def test_requests_replies_connects_and_events_wait_behind_a_record_too_and_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    commit = Records.commit
    monkeypatch.setattr(Records, "commit", lambda self, batch: (gate.wait(10), commit(self, batch)))

    async def main() -> None:
        network = MemoryNetwork()
        async with (
            node(network, tmp_path, 1, probe(), probe("ear")) as home,
            node(network, tmp_path, 2, probe()) as other,
        ):
            know(home, other)
            tokens: list[Any] = []
            machine(home).script["request"] = lambda ctx, peer, msg, token: tokens.append(token)
            other.plugin("probe").call(lambda m, ctx: ctx.request(home.peer, Question("?"), "q", 20.0))
            await until(lambda: bool(tokens))

            def leave(m: Any, ctx: Any) -> None:
                ctx.save("k", b"v")
                ctx.emit(Happened("saved"))
                ctx.request(other.peer, Question("?"), "mine", 0.1)
                ctx.reply(tokens[0], Note("yes"))
                ctx.connect(NOBODY)
                ctx.set_timer("after any timeout of mine", 0.15)

            home.plugin("probe").call(leave)
            await until(lambda: bool(machine(home).seen("timer")))  # timers do not leave the machine
            assert machine(home, "ear").seen("event") == []
            assert machine(other).seen("request") == machine(other).seen("reply") == []
            assert machine(home).seen("failure") == []
            gate.set()
            await until(lambda: len(machine(home).seen("failure")) == 2)
            assert {key for key, _, _ in machine(home).seen("failure")} == {"mine", CONNECT}
            assert machine(home, "ear").seen("event") == [(Happened("saved"),)]
            assert machine(other).seen("reply") == [("q", home.peer, Note("yes"))]

    run(main)


# Timers.


@pytest.mark.claim("drive.timers-never-early")
def test_no_timer_is_early_on_the_machines_own_clock(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(MemoryNetwork(), tmp_path, 1, probe()) as home:
            late: list[float] = []
            machine(home).script["timer"] = lambda ctx, due: late.append(ctx.now - due)

            def arm(m: Any, ctx: Any) -> None:
                for n in range(200):
                    ctx.set_timer(ctx.now + n * 0.0005, n * 0.0005)

            home.plugin("probe").call(arm)
            await until(lambda: len(late) == 200)
            assert min(late) >= 0.0

    run(main)


def test_timers_and_messages_of_nonsense_are_refused_where_they_are_made(tmp_path: Path) -> None:
    async def main() -> None:
        async with node(MemoryNetwork(), tmp_path, 1, probe(), probe("mute", codec=None)) as home:
            call = home.plugin("probe").call
            for act in (
                lambda m, ctx: ctx.set_timer("t", -1.0),
                lambda m, ctx: ctx.set_timer("t", float("nan")),
                lambda m, ctx: ctx.request(NOBODY, Question("?"), "k", 0.0),
                lambda m, ctx: ctx.send(NOBODY, Note("x" * CODEC.max_size)),
                lambda m, ctx: ctx.save("k" * 256, b""),
            ):
                with pytest.raises(LocalProtocolError):
                    call(act)
            with pytest.raises(LocalProtocolError, match="mute sends a Note but has no codec"):
                home.plugin("mute").call(lambda m, ctx: ctx.send(NOBODY, Note("")))

    run(main)


def test_the_run_seed_is_new_in_every_life_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        draws = []
        for _ in range(2):
            async with node(MemoryNetwork(), tmp_path, 1, probe()) as home:
                draws.append(home.plugin("probe").call(lambda m, ctx: ctx.rng.random()))
        assert draws[0] != draws[1]

    with caplog.at_level(logging.INFO, "grove.node"):
        run(main)
    assert len([line for line in caplog.messages if "run seed" in line]) == 2
