"""Rule 6: a machine may host other machines. Runs under every driver, as the contract's tests do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from grove_core.codec import MsgpackCodec
from grove_core.errors import LocalProtocolError
from grove_core.host import Envelope, GuestKey, Host
from grove_core.machine import Context, Event, PeerId
from grove_core.specs import Part, ProtocolSpec
from grove_core.testing import Recorder, Request, Save, Send, SetTimer, peer
from tests.core.probe import CODEC, DOMAIN, Happened, Note, Question, Signed, probe
from tests.core.stages import STAGES


class InnConfig(msgspec.Struct, frozen=True):
    guest: str = "probe"


class Inn(Host[Any]):
    """Hosts one guest protocol twice, under two names, and tells the world what it hears."""

    def __init__(self, config: InnConfig, guest: Part) -> None:
        super().__init__()
        self.part = guest

    def on_start(self, ctx: Context[Any]) -> None:
        for name in ("guest/upper", "guest/lower"):
            self.host(ctx, name, self.part)

    def on_guest_event(self, ctx: Context[Any], guest: str, event: Event) -> None:
        ctx.emit(Happened(f"{guest}: {event.text}"))  # type: ignore[attr-defined]


def inn() -> Part:
    spec = ProtocolSpec(
        name="inn",
        role="consensus",
        config=InnConfig,
        build=Inn,
        codec=MsgpackCodec(Envelope, max_size=8192),
        protocols=("/grove/inn/1.0.0",),
        rpc=("/grove/inn/rpc/1.0.0",),
        hosts={"guest": "membership"},
    )
    return Part(spec, InnConfig(), {"guest": probe()})


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


def guest(stage: Any, node: Any, name: str = "guest/upper") -> Any:
    return stage.machine(node, "inn").guest(name)


def enter(stage: Any, node: Any, act: Callable[[Any, Any], Any], name: str = "guest/upper") -> Any:
    return stage.act(node, lambda host, ctx: host.enter(ctx, name, act), "inn")


@pytest.mark.claim("contract.hosted-machines")
def test_guests_talk_to_their_namesakes_in_the_hosts_envelope(stage: Any) -> None:
    a, b = stage.add(inn()), stage.add(inn())
    stage.link(a, b)
    enter(stage, a, lambda machine, ctx: ctx.send(stage.peer(b), Note("up here")))
    enter(stage, a, lambda machine, ctx: ctx.send(stage.peer(b), Note("down here")), "guest/lower")
    stage.until(lambda: bool(guest(stage, b).texts()) and bool(guest(stage, b, "guest/lower").texts()))
    assert guest(stage, b).texts() == ["up here"]
    assert guest(stage, b, "guest/lower").texts() == ["down here"]
    assert (stage.peer(b),) in guest(stage, a).seen("up")


@pytest.mark.claim("contract.hosted-machines")
def test_a_guests_questions_timers_and_records_are_its_own(stage: Any) -> None:
    a, b = stage.add(inn()), stage.add(inn())
    guest(stage, b).script["request"] = lambda ctx, peer, msg, token: ctx.reply(token, Note("yes"))

    def busy(machine: Any, ctx: Any) -> None:
        ctx.request(stage.peer(b), Question("?"), "key", 10.0)
        ctx.set_timer("tick", 0.05)
        ctx.save("term", b"7")

    enter(stage, a, busy)
    stage.until(lambda: bool(guest(stage, a).seen("reply")) and bool(guest(stage, a).seen("timer")))
    assert guest(stage, a).seen("reply") == [("key", stage.peer(b), Note("yes"))]
    assert guest(stage, a).seen("timer") == [("tick",)]
    assert guest(stage, a, "guest/lower").seen("timer") == []
    stage.run(0.3)
    stage.crash(a)
    stage.restart(a)
    assert enter(stage, a, lambda machine, ctx: (ctx.load("term"), ctx.saved())) == (b"7", ("term",))
    assert enter(stage, a, lambda machine, ctx: ctx.load("term"), "guest/lower") is None


@pytest.mark.claim("contract.hosted-machines")
def test_what_a_guest_emits_is_heard_by_the_host_after_the_guests_handler(stage: Any) -> None:
    node = stage.add(inn(), probe("sibling"))

    def tell(machine: Any, ctx: Any) -> None:
        ctx.emit(Happened("one"))
        assert stage.machine(node, "sibling").seen("event") == []

    enter(stage, node, tell)
    stage.until(lambda: bool(stage.machine(node, "sibling").seen("event")))
    assert stage.machine(node, "sibling").seen("event") == [(Happened("guest/upper: one"),)]


@pytest.mark.claim("contract.hosted-machines")
def test_a_guests_proofs_are_checked_on_the_way_in_like_anybodys(stage: Any) -> None:
    a, b = stage.add(inn()), stage.add(inn())
    stage.link(a, b)
    me, to = stage.peer(a), stage.peer(b)
    enter(stage, a, lambda machine, ctx: ctx.send(to, Signed(me, "true", ctx.sign(DOMAIN + b"true"))))
    stage.until(lambda: guest(stage, b).texts() == ["true"])
    enter(stage, a, lambda machine, ctx: ctx.send(to, Signed(me, "lie", ctx.sign(DOMAIN + b"true"))))
    stage.until(lambda: bool(guest(stage, a).seen("down")))
    assert guest(stage, b).texts() == ["true"]


# What the driver sees of a guest, with a Recorder.


def housed() -> tuple[Inn, Recorder]:
    part, recorder = inn(), Recorder(peer(0))
    machine = part.build()
    assert isinstance(machine, Inn)
    machine.on_start(recorder)
    recorder.take()
    return machine, recorder


def test_a_guests_effects_carry_its_name() -> None:
    machine, recorder = housed()

    def act(inside: Any, ctx: Any) -> None:
        ctx.send(peer(1), Note("x"))
        ctx.request(peer(1), Note("y"), 5, 1.0)
        ctx.set_timer("t", 2.0)
        ctx.save("k", b"v")

    machine.enter(recorder, "guest/upper", act)
    body, ask = CODEC.encode(Note("x")), CODEC.encode(Note("y"))
    assert recorder.take() == [
        Send(peer(1), Envelope("guest/upper", body)),
        Request(peer(1), Envelope("guest/upper", ask), GuestKey("guest/upper", 5), 1.0),
        SetTimer(GuestKey("guest/upper", "t"), 2.0),
        Save("guest/upper/k", b"v"),
    ]


def test_a_connection_is_let_go_when_the_last_guest_lets_go() -> None:
    machine, recorder = housed()
    for name in ("guest/upper", "guest/lower"):
        machine.enter(recorder, name, lambda inside, ctx: ctx.connect(peer(1)))
    recorder.take()
    machine.enter(recorder, "guest/upper", lambda inside, ctx: ctx.disconnect(peer(1)))
    assert recorder.take() == []
    machine.dismiss(recorder, "guest/lower")
    assert [type(effect).__name__ for effect in recorder.take()] == ["Disconnect"]
    assert machine.guests() == ("guest/upper",)


def test_a_guest_signs_only_in_its_domain_and_a_name_is_given_once() -> None:
    machine, recorder = housed()
    with pytest.raises(LocalProtocolError, match="domain"):
        machine.enter(recorder, "guest/upper", lambda inside, ctx: ctx.sign(b"other"))
    with pytest.raises(LocalProtocolError, match="already"):
        machine.host(recorder, "guest/upper", probe())


def test_a_message_for_a_guest_that_is_not_here_is_nothing() -> None:
    machine, recorder = housed()
    machine.on_message(recorder, peer(1), Envelope("guest/gone", b""))
    assert recorder.take() == []


def test_a_host_with_guests_can_be_copied() -> None:
    machine, _ = housed()
    twin = copy.deepcopy(machine)
    assert twin.guests() == machine.guests()
    assert twin.guest("guest/upper") is not machine.guest("guest/upper")
    assert PeerId(peer(0)) == peer(0)
