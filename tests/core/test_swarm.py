"""Dialling as it happens: races, limits, merging, and who is left when both sides dial."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grove_core import Node
from grove_core.drive.swarm import Swarm
from grove_core.errors import Unreachable
from grove_core.events import Delivered
from grove_core.identity import Identity
from grove_core.machine import Event, PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits
from grove_core.testing.memory import MemoryNetwork
from grove_core.transport import GATED, Connection, DialError
from tests.core.houses import know, node, run
from tests.core.probe import probe
from tests.core.rogue import turns, until


def who(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


ANN, BOB = who(1).peer, who(2).peer


class Line:
    """A connection that carries nothing."""

    def __init__(self, swarm: Swarm, peer: PeerId, remote: Multiaddr, inbound: bool = False) -> None:
        self.swarm, self.peer, self.remote, self.inbound = swarm, peer, remote, inbound
        self.local = remote
        self.transport = "script"
        self.stream_count = 0
        self.codes: list[int] = []

    def close(self, code: int = 0, reason: str = "") -> None:
        if not self.codes:
            self.codes.append(code)
            self.swarm.closed(self, reason)  # type: ignore[arg-type]


class Script:
    """A transport whose every dial goes as written: who answers where, after how long, or not at all."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.answers: dict[str, PeerId | Exception | None] = {}  # None: silence
        self.gates: dict[str, asyncio.Event] = {}
        self.started: list[str] = []
        self.flying = 0
        self.most = 0
        self.made: list[Line] = []
        self.returns = asyncio.Event()
        self.returns.set()

    def rank(self, address: Multiaddr) -> int | None:
        return 0 if address.is_quic else 10 if address.is_tcp else None

    async def listen(self, address: Multiaddr) -> Sequence[Multiaddr]:
        return (address,)

    async def close(self) -> None:
        pass

    async def dial(self, address: Multiaddr, peer: PeerId | None) -> Connection:
        text = str(address)
        self.started.append(text)
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            if text in self.gates:
                await self.gates[text].wait()
            answer = self.answers.get(text, DialError("connection refused"))
            if answer is None:
                await asyncio.Event().wait()
            if isinstance(answer, Exception):
                raise answer
            assert answer is not None
            line = Line(self.swarm, answer, address)
            self.made.append(line)
            self.swarm.opened(line)  # type: ignore[arg-type]
            try:
                await self.returns.wait()  # a dial resumes some turns after its handshake is done
            except asyncio.CancelledError:
                line.close()
                raise
            return line  # type: ignore[return-value]
        finally:
            self.flying -= 1


class Told:
    """The swarm's listener."""

    def __init__(self) -> None:
        self.log: list[tuple[str, PeerId]] = []

    def peer_up(self, peer: PeerId) -> None:
        self.log.append(("up", peer))

    def peer_down(self, peer: PeerId) -> None:
        self.log.append(("down", peer))

    def published(self, event: Event) -> None:
        pass


def made(**limits: Any) -> tuple[Swarm, Script, Told]:
    told = Told()
    swarm = Swarm(who(0), Limits(**limits), told, Counter())
    script = Script(swarm)
    swarm.transports.append(script)
    swarm.ready.set()
    return swarm, script, told


def at(host: str, port: int = 1) -> str:
    return f"/ip4/{host}/tcp/{port}"


def learn(swarm: Swarm, peer: PeerId, *texts: str) -> None:
    swarm.book.learn(peer, addresses=[Multiaddr.parse(text) for text in texts])


@pytest.mark.claim("dialing.happy-eyeballs")
def test_when_the_first_choice_is_silent_the_next_is_tried_beside_it_and_the_first_answer_wins() -> None:
    async def main() -> None:
        swarm, script, told = made()
        silent, good = "/ip4/10.0.0.1/udp/1/quic-v1", at("10.0.0.1")
        script.answers = {silent: None, good: ANN}
        learn(swarm, ANN, good, silent)
        connection = await swarm.reach(ANN)
        assert script.started == [silent, good]
        assert str(connection.remote) == good
        await until(lambda: script.flying == 0)  # the silent one was given up
        assert told.log == [("up", ANN)]

    run(main)


def test_when_everything_failed_every_outcome_is_told_and_it_is_left_alone_for_a_while() -> None:
    async def main() -> None:
        swarm, script, _ = made(dial_timeout=0.05)
        script.answers = {at("10.0.0.2"): None}
        learn(swarm, ANN, at("10.0.0.1"), at("10.0.0.2"), "/ip4/10.0.0.3/udp/1/webrtc-direct")
        with pytest.raises(Unreachable) as failed:
            await swarm.reach(ANN)
        assert "/ip4/10.0.0.1/tcp/1: connection refused" in str(failed.value)
        assert "/ip4/10.0.0.2/tcp/1: no answer within 0.05 s" in str(failed.value)
        with pytest.raises(Unreachable, match="failed on all 2 addresses a moment ago"):
            await swarm.reach(ANN)
        assert len(script.started) == 2
        script.answers[at("10.0.0.1")] = ANN
        await swarm.reach(ANN, insist=True)  # a person asked

    run(main)


def test_failing_fast_goes_on_fast() -> None:
    async def main() -> None:
        swarm, script, _ = made()
        hosts = [at(f"8.8.4.{n}") for n in range(12)]  # 11 staggers of 250 ms would be 2.75 s
        script.answers = {hosts[-1]: ANN}
        learn(swarm, ANN, *hosts)
        began = asyncio.get_running_loop().time()
        await swarm.reach(ANN)
        assert script.started == hosts
        assert asyncio.get_running_loop().time() - began < 2.0

    run(main)


@pytest.mark.claim("dialing.in-flight")
def test_however_many_peers_are_wanted_only_so_many_dials_are_in_flight() -> None:
    async def main() -> None:
        swarm, script, _ = made(dials=8)
        gate = asyncio.Event()
        peers = [who(number).peer for number in range(1, 101)]
        futures = []
        for number, peer in enumerate(peers):
            address = at(f"10.0.1.{number}")
            script.answers[address] = peer
            script.gates[address] = gate
            learn(swarm, peer, address)
            futures.append(swarm.reach(peer))
        await until(lambda: script.flying == 8)
        await turns()
        assert len(script.started) == 8
        gate.set()
        await asyncio.gather(*futures)
        assert script.most == 8
        assert len(swarm.table) == 100

    run(main)


@pytest.mark.claim("dialing.paced")
def test_public_addresses_are_paced_behind_the_burst_and_local_ones_pass() -> None:
    async def main() -> None:
        swarm, script, _ = made(dials=100, dial_burst=5, dials_per_second=0.001)
        for number in range(1, 21):
            learn(swarm, who(number).peer, at(f"8.8.4.{number}"))
            swarm.reach(who(number).peer)
        for number in range(21, 31):
            script.answers[at(f"192.168.1.{number}")] = who(number).peer
            learn(swarm, who(number).peer, at(f"192.168.1.{number}"))
        await asyncio.gather(*(swarm.reach(who(number).peer) for number in range(21, 31)))
        assert sum(text.startswith("/ip4/8.") for text in script.started) == 5
        assert len(script.started) == 15
        assert swarm.counters["paced.dials"] == 15
        swarm.stop_dialling()

    run(main)


def test_the_peers_waited_for_are_bounded() -> None:
    async def main() -> None:
        swarm, script, _ = made(dials=1, peers_known=5000)
        gate = asyncio.Event()
        for number in range(1100):
            peer = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
            address = at("10.9.0.1", number + 1)
            script.gates[address] = gate
            learn(swarm, peer, address)
            swarm.reach(peer)
        await asyncio.sleep(0)
        assert swarm.counters["refused.reach"] == 1100 - 1024
        swarm.stop_dialling()

    run(main)


# Both at once.


@pytest.mark.claim("connections.simultaneous")
def test_a_dial_that_has_just_succeeded_is_kept_when_the_peer_comes_to_us_at_the_same_time() -> None:
    async def main() -> None:
        swarm, script, told = made()
        script.answers = {at("10.0.0.1"): ANN}
        script.returns.clear()
        learn(swarm, ANN, at("10.0.0.1"))
        future = swarm.reach(ANN)
        await until(lambda: bool(script.made))  # opened, but our dial has not returned yet
        remote = Multiaddr.parse(at("10.0.0.1", 999))
        assert swarm.admit(remote) == 0
        swarm.opened(Line(swarm, ANN, remote, inbound=True))  # type: ignore[arg-type]
        await future
        await turns()
        script.returns.set()
        await until(lambda: script.flying == 0)
        assert len(swarm.table.of(ANN)) == 2  # legal everywhere; the surplus closes when idle
        assert script.made[0].codes == []
        assert told.log == [("up", ANN)]

    run(main)


def test_a_peer_that_comes_to_us_ends_a_dial_that_is_still_on_its_way() -> None:
    async def main() -> None:
        swarm, script, told = made()
        script.answers = {at("10.0.0.1"): None}
        learn(swarm, ANN, at("10.0.0.1"))
        future = swarm.reach(ANN)
        await until(lambda: script.flying == 1)
        remote = Multiaddr.parse(at("10.0.0.1", 999))
        assert swarm.admit(remote) == 0
        line: Any = Line(swarm, ANN, remote, inbound=True)
        swarm.opened(line)
        assert await future is line
        await until(lambda: script.flying == 0)
        line.close()
        assert told.log == [("up", ANN), ("down", ANN)]
        learn(swarm, ANN, at("10.0.0.2"))
        script.answers[at("10.0.0.2")] = ANN
        await swarm.reach(ANN)  # and a new dial is a new dial

    run(main)


def test_a_connection_to_ourselves_or_after_the_end_is_closed() -> None:
    async def main() -> None:
        swarm, script, told = made()
        script.answers = {at("10.0.0.1"): who(0).peer}
        with pytest.raises(Unreachable, match="this node itself"):
            await swarm.dial_address(Multiaddr.parse(at("10.0.0.1")))
        assert script.made[0].codes == [GATED]
        swarm.stop_dialling()
        assert swarm.admit(Multiaddr.parse(at("10.0.0.1"))) == GATED
        with pytest.raises(Unreachable, match="stopping"):
            await swarm.reach(BOB)
        assert told.log == []

    run(main)


def test_a_peer_that_closes_while_it_is_greeted_fails_those_who_wait_for_it() -> None:
    async def main() -> None:
        swarm, script, told = made()
        greeted = asyncio.Event()

        async def greet(connection: Connection) -> None:
            greeted.set()
            await asyncio.Event().wait()

        swarm.greeters.append(greet)
        script.answers = {at("10.0.0.1"): ANN}
        learn(swarm, ANN, at("10.0.0.1"))
        future = swarm.reach(ANN)
        await greeted.wait()
        await turns()
        script.made[0].close(0, "went away")
        with pytest.raises(Unreachable, match="went away"):
            await future
        assert told.log == []

    run(main)


# Trimming and idling, with the loop.


@pytest.mark.claim("connections.trimmed")
def test_a_node_trims_itself_down_to_low_water_and_spares_whom_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grove_core.drive.connections.GRACE", 0.0)

    async def main() -> None:
        network = MemoryNetwork()
        limits = Limits(low_water=2, high_water=4, idle=60.0)
        others = [node(network, tmp_path, number, probe()) for number in range(2, 9)]
        async with node(network, tmp_path, 1, probe(), limits=limits) as home:
            for other in others:
                await other.start()
                know(home, other)
            for other in others[:4]:
                await home.connect(other.peer)
            for other in others[4:]:
                await other.connect(home.peer)
            swarm: Any = home._swarm
            await until(lambda: len(home.connections()) == 7)
            for other in others[1:4]:
                swarm.release(other.peer, "application")
            home._look_after()
            await until(lambda: len(home.connections()) == 2)
            assert home.connections()[0].peer == others[0].peer  # held
            assert home.counters["closed.trimmed"] == 5
            for other in others:
                await other.stop()

    run(main)


# Real sockets.


@pytest.mark.claim("node.village-over-sockets")
@pytest.mark.parametrize(
    "listen", ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"], ids=["tcp", "quic"]
)
def test_three_nodes_from_a_profile_meet_by_ticket_and_deliver_over_sockets(
    tmp_path: Path, listen: str
) -> None:
    async def main() -> None:
        nodes = [
            Node.from_profile(
                "residential",
                data=tmp_path / str(number),
                set={"node.listen": [listen], "roles.service": ["libp2p"]},
            )
            for number in range(3)
        ]
        for one in nodes:
            await one.start()
            one.broadcast.subscribe("news")
        first, *others = nodes
        for one in others:
            await one.join(first.ticket())
        await until(lambda: all(one.membership.neighbors() for one in nodes))
        watches = [one.watch(Delivered) for one in nodes]
        for watch in watches:
            await watch.__aenter__()
        nodes[1].broadcast.publish("news", b"hello")
        for watch in watches:
            event = await watch.next()
            assert isinstance(event, Delivered)
            assert (event.author, event.data) == (nodes[1].peer, b"hello")
        for one in nodes:
            assert one.failures == {}
            assert {c.transport for c in one.connections()} == {"tcp" if "tcp" in listen else "quic"}
        assert first.peers.get(nodes[1].peer).agent  # identify told
        for one in nodes:
            await one.stop()

    run(main)
