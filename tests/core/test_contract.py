"""The contract of `machine.py`, rule by rule, in every driver.

Each test takes a `stage`: a few nodes under one driver (`virtual_stage.py`, `aio_stage.py`). What
holds on one and not on the other is a defect of a driver, never of a protocol.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from grove_core.errors import LocalProtocolError
from grove_core.identity import Identity
from grove_core.machine import CONNECT, PeerId, Terms
from tests.core.probe import (
    CODEC,
    DOMAIN,
    Both,
    Happened,
    Note,
    Probe,
    ProbeConfig,
    Question,
    Signed,
    probe,
)
from tests.core.stages import STAGES

# libp2p/specs peer-ids.md, "Test vectors": an ECDSA private key.
ECDSA = (
    "08031279307702010104203E5B1FE9712E6C314942A750BD67485DE3C1EFE85B1BFB520AE8F9AE3DFA4A4CA00A06082A8648CE"
    "3D030107A14403420004DE3D300FA36AE0E8F5D530899D83ABAB44ABF3161F162A4BC901D8E6ECDA020E8B6D5F8DA30525E7"
    "1D6851510C098E5C47C646A597FB4DCEC034E9F77C409E62"
)
NOBODY = PeerId(b"\x00\x24\x08\x01\x12\x20" + b"\x07" * 32)


@pytest.fixture(params=STAGES)
def make_stage(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(request.param(**options))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture
def stage(make_stage: Callable[..., Any]) -> Any:
    return make_stage()


def pair(stage: Any, *parts: Any) -> tuple[Any, Any]:
    """Two connected nodes."""
    a, b = stage.add(*(parts or (probe(),))), stage.add(*(parts or (probe(),)))
    stage.link(a, b)
    return a, b


# Rule 1 and 2: effects are recorded, take place in order, and never re-enter a machine.


@pytest.mark.claim("contract.effects-in-order")
def test_messages_arrive_in_the_order_they_were_sent(stage: Any) -> None:
    a, b = pair(stage)
    to = stage.peer(b)
    stage.act(a, lambda machine, ctx: [ctx.send(to, Note(str(n))) for n in range(100)])
    stage.until(lambda: len(stage.machine(b).texts()) == 100)
    assert stage.machine(b).texts() == [str(n) for n in range(100)]


@pytest.mark.claim("contract.no-reentry")
def test_siblings_hear_events_after_the_handler_returned_and_in_node_order(stage: Any) -> None:
    parts = (probe("first"), probe("second"), probe("third"))
    node = stage.add(*parts)
    order: list[tuple[str, str]] = []
    for name in ("first", "third"):
        stage.machine(node, name).script["event"] = lambda ctx, event, name=name: order.append(
            (name, event.text)
        )

    def tell(machine: Probe, ctx: Any) -> None:
        ctx.emit(Happened("one"))
        ctx.emit(Happened("two"))
        order.append(("second", "returned"))

    stage.act(node, tell, "second")
    stage.until(lambda: len(order) == 5)
    assert order == [
        ("second", "returned"),
        ("first", "one"),
        ("third", "one"),
        ("first", "two"),
        ("third", "two"),
    ]
    assert stage.machine(node, "second").seen("event") == []  # never its own


# Rule 3: save is a barrier.


@pytest.mark.claim("contract.save-is-a-barrier")
def test_what_follows_a_save_leaves_only_when_the_record_is_durable(make_stage: Any) -> None:
    stage = make_stage(disk=0.2)
    a, b = pair(stage)
    to = stage.peer(b)

    def vote(machine: Probe, ctx: Any) -> None:
        ctx.send(to, Note("before"))
        ctx.save("vote", b"b")
        ctx.send(to, Note("after"))
        assert ctx.load("vote") == b"b"  # one's own unsaved write is seen at once

    stage.act(a, vote)
    stage.act(a, lambda machine, ctx: ctx.send(to, Note("later input")))
    stage.until(lambda: "before" in stage.machine(b).texts(), 0.15)
    assert stage.machine(b).texts() == ["before"]
    stage.until(lambda: len(stage.machine(b).texts()) == 3)
    assert stage.machine(b).texts() == ["before", "after", "later input"]


@pytest.mark.claim("contract.save-is-a-barrier")
def test_a_crash_before_the_record_is_durable_loses_the_record_and_what_waited_for_it(
    make_stage: Any,
) -> None:
    stage = make_stage(disk=0.2)
    a, b = pair(stage)
    to = stage.peer(b)
    stage.act(a, lambda machine, ctx: (ctx.save("n", b"1"), ctx.send(to, Note("1 is safe"))))
    stage.until(lambda: stage.machine(b).texts() == ["1 is safe"])
    stage.act(a, lambda machine, ctx: (ctx.save("n", b"2"), ctx.send(to, Note("2 is safe"))))
    stage.crash(a)
    stage.run(0.5)
    stage.restart(a)
    assert stage.machine(b).texts() == ["1 is safe"]
    assert stage.act(a, lambda machine, ctx: ctx.load("n")) == b"1"


@pytest.mark.claim("contract.save-is-a-barrier")
def test_records_of_an_earlier_life_are_loaded_listed_and_erased(stage: Any) -> None:
    node = stage.add(probe(), probe("other"))

    def write(machine: Probe, ctx: Any) -> None:
        for key in ("log/2", "log/1", "term"):
            ctx.save(key, key.encode())
        ctx.save("log/3", b"x")
        ctx.save("log/3", None)

    stage.act(node, write)
    stage.run(0.3)
    stage.crash(node)
    stage.restart(node)
    assert stage.act(node, lambda machine, ctx: ctx.saved("log/")) == ("log/1", "log/2")
    assert stage.act(node, lambda machine, ctx: ctx.load("term")) == b"term"
    assert stage.act(node, lambda machine, ctx: ctx.saved(), "other") == ()  # records are private


# Rule 4: timers.


@pytest.mark.claim("contract.timers")
def test_a_timer_fires_once_never_early_and_not_when_cancelled_or_rearmed(stage: Any) -> None:
    node = stage.add(probe())
    fired: list[tuple[str, float]] = []
    stage.machine(node).script["timer"] = lambda ctx, key: fired.append((key, ctx.now))
    start: list[float] = []

    def arm(machine: Probe, ctx: Any) -> None:
        start.append(ctx.now)
        ctx.set_timer("once", 0.05)
        ctx.set_timer("cancelled", 0.05)
        ctx.set_timer("rearmed", 0.05)
        ctx.set_timer("rearmed", 0.2)
        ctx.cancel_timer("cancelled")
        ctx.cancel_timer("never set")

    stage.act(node, arm)
    stage.until(lambda: len(fired) >= 2)
    stage.run(0.3)
    assert [key for key, _ in fired] == ["once", "rearmed"]
    assert fired[0][1] >= start[0] + 0.05
    assert fired[1][1] >= start[0] + 0.2


# Connections.


@pytest.mark.claim("contract.connect-is-answered")
def test_connect_is_answered_also_when_the_peer_is_up_already(stage: Any) -> None:
    a, b = pair(stage)
    to = stage.peer(b)
    before = len(stage.machine(a).seen("up"))
    stage.act(a, lambda machine, ctx: ctx.connect(to))
    stage.until(lambda: len(stage.machine(a).seen("up")) == before + 1)
    stage.act(a, lambda machine, ctx: ctx.connect(NOBODY))
    stage.until(lambda: bool(stage.machine(a).seen("failure")))
    assert stage.machine(a).seen("failure") == [(CONNECT, NOBODY, "unreachable")]


@pytest.mark.claim("contract.connect-is-answered")
def test_a_machine_hears_only_of_peers_that_speak_its_protocol(stage: Any) -> None:
    a = stage.add(probe("x"), probe("y"))
    b = stage.add(probe("x"))
    stage.link(a, b)
    assert (stage.peer(b),) in stage.machine(a, "x").seen("up")
    assert stage.machine(a, "y").seen("up") == []
    stage.act(a, lambda machine, ctx: ctx.connect(stage.peer(b)), "y")
    stage.until(lambda: bool(stage.machine(a, "y").seen("failure")))
    assert stage.machine(a, "y").seen("failure") == [(CONNECT, stage.peer(b), "refused")]


@pytest.mark.claim("contract.terms")
def test_a_machine_knows_what_a_peer_speaks_and_who_dialled(stage: Any) -> None:
    new = probe(protocols=("/grove/probe/1.1.0", "/grove/probe/1.0.0"))
    a, b, old = stage.add(new), stage.add(new), stage.add(probe())
    for other in (b, old):
        stage.link(a, other)

    def terms(of: Any, with_: Any) -> Terms:
        found: Terms = stage.act(of, lambda machine, ctx: ctx.terms(stage.peer(with_)))
        return found

    assert terms(a, b) == Terms("/grove/probe/1.1.0", outbound=True)
    assert terms(a, old) == Terms("/grove/probe/1.0.0", outbound=True)
    assert terms(b, a) == Terms("/grove/probe/1.1.0", outbound=False)
    assert terms(old, a) == Terms("/grove/probe/1.0.0", outbound=False)
    assert terms(b, old) == Terms()
    assert stage.act(a, lambda machine, ctx: ctx.terms(NOBODY)) == Terms()


@pytest.mark.claim("contract.link-down")
def test_a_crash_is_noticed_by_every_holder_of_a_link(stage: Any) -> None:
    a, b = pair(stage)
    stage.crash(b)
    stage.until(lambda: bool(stage.machine(a).seen("down")))
    assert stage.machine(a).seen("down") == [(stage.peer(b),)]


@pytest.mark.claim("contract.send-dials")
def test_a_send_without_a_connection_opens_a_temporary_one(stage: Any) -> None:
    a, b = stage.add(probe()), stage.add(probe())
    stage.act(a, lambda machine, ctx: ctx.send(stage.peer(b), Note("hello stranger")))
    stage.until(lambda: stage.machine(b).texts() == ["hello stranger"])


# Requests.


@pytest.mark.claim("contract.request-is-answered-once")
def test_a_request_is_answered_by_a_reply_now_or_later(stage: Any) -> None:
    a, b = stage.add(probe()), stage.add(probe())
    kept: list[Any] = []
    stage.machine(b).script["request"] = lambda ctx, peer, msg, token: kept.append(token)
    to = stage.peer(b)
    stage.act(a, lambda machine, ctx: ctx.request(to, Question("why?"), "q1", 20.0))
    stage.until(lambda: bool(kept))
    stage.act(b, lambda machine, ctx: ctx.reply(kept[0], Note("because")))
    stage.act(b, lambda machine, ctx: ctx.reply(kept[0], Note("and again")))  # stale: ignored
    stage.until(lambda: bool(stage.machine(a).seen("reply")))
    stage.run(0.2)
    assert stage.machine(a).seen("reply") == [("q1", to, Note("because"))]
    assert stage.machine(a).seen("failure") == []


@pytest.mark.claim("contract.request-is-answered-once")
def test_a_request_that_cannot_be_answered_fails_with_its_reason(stage: Any) -> None:
    a, b = stage.add(probe(), probe("other")), stage.add(probe())
    silent, to = stage.peer(b), stage.peer(b)
    stage.act(a, lambda machine, ctx: ctx.request(silent, Question("?"), "silent", 0.3))
    stage.act(a, lambda machine, ctx: ctx.request(NOBODY, Question("?"), "nobody", 5.0))
    stage.act(a, lambda machine, ctx: ctx.request(to, Question("?"), "foreign", 5.0), "other")
    stage.until(lambda: len(stage.machine(a).seen("failure")) == 2)
    stage.until(lambda: len(stage.machine(a, "other").seen("failure")) == 1)
    assert sorted(stage.machine(a).seen("failure")) == [
        ("nobody", NOBODY, "unreachable"),
        ("silent", silent, "timeout"),
    ]
    assert stage.machine(a, "other").seen("failure") == [("foreign", to, "refused")]


@pytest.mark.claim("contract.bounded-requests")
def test_questions_beyond_the_bound_of_one_peer_are_refused(stage: Any) -> None:
    a, b = pair(stage, probe(requests=3))
    to = stage.peer(b)
    stage.act(a, lambda machine, ctx: [ctx.request(to, Question("?"), n, 20.0) for n in range(5)])
    stage.until(lambda: len(stage.machine(a).seen("failure")) == 2)
    assert [reason for _, _, reason in stage.machine(a).seen("failure")] == ["refused", "refused"]
    assert len(stage.machine(b).seen("request")) == 3


# Rule 5: bounded queues with a declared overflow policy.


@pytest.mark.claim("contract.bounded-queues")
def test_a_full_queue_drops_when_the_spec_says_drop(stage: Any) -> None:
    a, b = pair(stage, probe(queue=10, overflow="drop"))
    to = stage.peer(b)
    stage.clog(a, b)
    for n in range(2000):
        stage.act(a, lambda machine, ctx, n=n: ctx.send(to, Note(f"{n} " + "x" * 3000)))
    stage.run(0.2)
    stage.unclog(a, b)
    stage.run(1.0)
    texts = stage.machine(b).texts()
    assert 10 <= len(texts) < 2000
    numbers = [int(text.split()[0]) for text in texts]
    assert numbers == sorted(numbers)
    assert stage.machine(a).seen("down") == []


@pytest.mark.claim("contract.bounded-queues")
def test_a_full_queue_ends_the_connection_when_the_spec_says_disconnect(stage: Any) -> None:
    a, b = pair(stage, probe(queue=10, overflow="disconnect"))
    to = stage.peer(b)
    stage.clog(a, b)
    for n in range(2000):
        stage.act(a, lambda machine, ctx, n=n: ctx.send(to, Note(f"{n} " + "x" * 3000)))
        if stage.machine(a).seen("down"):
            break
    stage.until(lambda: bool(stage.machine(a).seen("down")))


# Rule 6: machines inside a machine are tested in test_host.py.
# Rule 7: authentication on the way in.


@pytest.mark.claim("contract.authenticated")
def test_a_machine_sees_only_messages_whose_proofs_hold(stage: Any) -> None:
    a, b = pair(stage)
    me, to = stage.peer(a), stage.peer(b)

    def speak(machine: Probe, ctx: Any) -> None:
        ctx.send(to, Note("plain"))
        ctx.send(to, Signed(me, "true", ctx.sign(DOMAIN + b"true")))
        ctx.send(to, Note("in order"))

    stage.act(a, speak)
    stage.until(lambda: len(stage.machine(b).texts()) == 3)
    assert stage.machine(b).texts() == ["plain", "true", "in order"]
    stage.act(a, lambda machine, ctx: ctx.send(to, Signed(me, "false", ctx.sign(DOMAIN + b"true"))))
    stage.until(lambda: bool(stage.machine(a).seen("down")))  # its sender is disconnected
    assert "false" not in stage.machine(b).texts()


@pytest.mark.claim("contract.forgery-is-told")
def test_a_machine_that_wants_to_be_told_learns_which_proofs_do_not_hold(stage: Any) -> None:
    a, b = pair(stage, probe(forged="tell"))
    me, to = stage.peer(a), stage.peer(b)

    def speak(machine: Probe, ctx: Any) -> None:
        good = Signed(me, "true", ctx.sign(DOMAIN + b"true"))
        bad = Signed(me, "false", good.signature)
        ctx.send(to, Both(good, bad))
        ctx.send(to, bad)
        ctx.send(to, Note("still here"))

    stage.act(a, speak)
    stage.until(lambda: stage.machine(b).texts() == ["still here"])
    told = [(type(msg), bad) for _, msg, bad in stage.machine(b).seen("forged")]
    assert told == [(Both, (1,)), (Signed, (0,))]
    stage.run(0.2)
    assert stage.machine(a).seen("down") == []  # nobody is disconnected for it


@pytest.mark.claim("contract.authenticated")
def test_a_signer_whose_id_is_a_hash_sends_its_key_along(stage: Any) -> None:
    a, b = pair(stage, probe(forged="tell"))
    to = stage.peer(b)
    ecdsa = Identity.decode(bytes.fromhex(ECDSA))
    key, other = ecdsa.public.encode(), Identity.from_seed(bytes(32)).public.encode()
    texts = {"good": key, "without its key": b"", "with another's key": other, "with rubbish": b"\1"}
    for text, beside in texts.items():
        signature = ecdsa.sign(DOMAIN + text.encode())
        msg = Signed(ecdsa.peer, text, signature, beside)
        stage.act(a, lambda machine, ctx, msg=msg: ctx.send(to, msg))
    stage.until(lambda: len(stage.machine(b).seen("forged")) == 3)
    assert stage.machine(b).texts() == ["good"]


@pytest.mark.claim("contract.authenticated")
def test_a_machine_signs_only_in_its_own_domain(stage: Any) -> None:
    node = stage.add(probe())
    with pytest.raises(LocalProtocolError, match="domain"):
        stage.act(node, lambda machine, ctx: ctx.sign(b"libp2p-tls-handshake:forged"))


# Rule 8: randomness.


def test_each_machine_has_its_own_stream(stage: Any) -> None:
    a, b = stage.add(probe("x"), probe("y")), stage.add(probe("x"))
    draws = [
        stage.act(a, lambda machine, ctx: ctx.rng.random(), "x"),
        stage.act(a, lambda machine, ctx: ctx.rng.random(), "y"),
        stage.act(b, lambda machine, ctx: ctx.rng.random(), "x"),
    ]
    assert len(set(draws)) == 3


def test_a_machine_can_be_copied_in_mid_life(stage: Any) -> None:
    a, _ = pair(stage)
    machine = stage.machine(a)
    assert copy.deepcopy(machine).log == machine.log


def test_the_probe_is_an_honest_protocol() -> None:
    assert CODEC.decode(CODEC.encode(Note("x"))) == Note("x")
    assert probe().build().log == []  # type: ignore[attr-defined]
    assert ProbeConfig() == ProbeConfig()
