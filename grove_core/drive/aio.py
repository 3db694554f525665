"""The real driver: moves the machines of one node over asyncio. Keeps the contract of `machine.py`.

An input runs a machine's method with its context; the context records what the method does, and
when it has returned the effects take place, in the order they were called. Everything that becomes
an input meanwhile (a sibling's event, the answer to a `connect`) waits in one queue until then, so
a machine is never entered twice and nobody is entered from inside.

Connections, streams and records are other files' business (`swarm.py`, `links.py`, `exchange.py`,
`store.py`); this one decides when a machine hears of them.

Invariants:
1. At most one input runs at a time on a node; inputs run to their end before the loop goes on.
2. What leaves a machine after a `save` stays in its `held` queue until the store calls the batch
   durable; order among held effects is kept, also across inputs.
3. A machine that raised gets no further input, and nothing of that input takes place.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Hashable
from functools import partial
from random import Random
from typing import Any, Protocol

from grove_core import varint
from grove_core.drive.exchange import Desk
from grove_core.drive.links import Lane, Links, Swarm
from grove_core.drive.store import Store, StoreError, check
from grove_core.errors import GroveError, LocalProtocolError
from grove_core.machine import CONNECT, Event, Message, PeerId, Terms, Token
from grove_core.node import Assembly, Slot, rng_for
from grove_core.transport import StreamHandler

log = logging.getLogger("grove.drive")

HELD = 16384
"""Effects of one machine that may wait behind its records; beyond, messages are dropped and counted.
Without it a peer could fill our memory while the disk stalls."""


NOTHING: tuple[None, bytes, bool] = (None, b"", False)
"""No message was encoded yet in this input."""


class Connecting(Swarm, Protocol):
    """What the driver needs of the connections, beyond what the streams need."""

    def is_up(self, peer: PeerId) -> bool: ...
    def hold(self, peer: PeerId, holder: Hashable) -> None: ...
    def release(self, peer: PeerId, holder: Hashable) -> None: ...
    def release_all(self, holder: Hashable) -> None: ...
    def up(self) -> tuple[PeerId, ...]: ...


class House(Protocol):
    """What the driver needs of the node it works for."""

    def sign(self, data: bytes) -> bytes: ...
    def record_of(self, peer: PeerId) -> bytes: ...
    def emitted(self, event: Event) -> None:
        """Before siblings hear of it: the address book reads along."""
        ...

    def published(self, event: Event) -> None:
        """After siblings: the application's turn."""
        ...

    def serve(self, protocol: str, handler: StreamHandler) -> None: ...
    def unserve(self, protocol: str) -> None: ...
    def broken(self, error: BaseException) -> None:
        """The node cannot go on."""
        ...


class AioContext:
    """One machine's context for its whole life: valid in its inputs only, where `now` stands still."""

    __slots__ = (
        "_barrier", "_desk", "_effects", "_encoded", "_fresh", "_held", "_lane", "_rng", "_timers",
        "alive", "drive", "machine", "me", "now", "slot", "speaks", "up",
    )  # fmt: skip

    def __init__(self, drive: Drive, slot: Slot) -> None:
        self.drive = drive
        self.slot = slot
        self.machine = slot.machine
        self.me = drive.me
        self.now = 0.0
        self.alive = True
        self.speaks = frozenset(slot.spec.protocols + slot.spec.rpc)
        self.up: dict[PeerId, None] = {}  # peers it was told of and not told the end of
        self._rng: Random | None = None
        self._effects: list[tuple[Any, ...]] = []  # of this input: (what, …)
        self._fresh: dict[str, bytes | None] = {}  # saved in this input
        self._encoded: tuple[Message | None, bytes, bool] = NOTHING  # a message goes to many peers
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._barrier = 0  # number of the newest batch that holds a record of ours; 0: all durable
        self._held: deque[tuple[int, tuple[Any, ...]]] = deque()  # (batch to wait for, effect)
        self._lane: Lane = drive.links.lane(slot, self._message, self._forged, self._renewed)
        self._desk = Desk(slot, self, drive.links, drive.counters)

    def __repr__(self) -> str:
        return f"<{self.slot.name}>"

    # What a machine reads.

    @property
    def rng(self) -> Random:
        if self._rng is None:
            self._rng = rng_for(self.drive.run_seed, self.me, self.slot.name)
        return self._rng

    def record(self, peer: PeerId) -> bytes:
        return self.drive.house.record_of(peer)

    def terms(self, peer: PeerId) -> Terms:
        return self._lane.terms(peer)

    def load(self, key: str) -> bytes | None:
        if key in self._fresh:
            return self._fresh[key]
        return self.drive.store.load(self.slot.name, key)

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        keys = self.drive.store.keys(self.slot.name, prefix)
        if not self._fresh:
            return keys
        found = set(keys)
        for key, value in self._fresh.items():
            if value is None:
                found.discard(key)
            elif key.startswith(prefix):
                found.add(key)
        return tuple(sorted(found))

    def sign(self, data: bytes) -> bytes:
        self.slot.check_domain(data)
        return self.drive.house.sign(data)

    # What a machine does: recorded, and done when the input is over.

    def send(self, peer: PeerId, msg: Any) -> None:
        last, frame, is_urgent = self._encoded
        if msg is not last:
            frame = self._frame(msg)
            urgent = self.slot.spec.urgent
            is_urgent = urgent is not None and urgent(msg)
            if isinstance(msg, Message):  # frozen, so its encoding cannot have changed
                self._encoded = (msg, frame, is_urgent)
        self._effects.append((_send, peer, frame, is_urgent))

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        if not timeout > 0:
            raise LocalProtocolError(f"{self.slot.name} asks with a timeout of {timeout} s; it is > 0")
        self._effects.append((_request, peer, self._frame(msg), key, timeout))

    def reply(self, token: Token, msg: Any) -> None:
        self._effects.append((_reply, token, self._frame(msg)))

    def connect(self, peer: PeerId) -> None:
        self._effects.append((_connect, peer))

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        self._effects.append((_disconnect, peer))

    def emit(self, event: Event) -> None:
        self._effects.append((_emit, event))

    def save(self, key: str, value: bytes | None) -> None:
        check(self.slot.name, key, value)
        value = None if value is None else bytes(value)
        self._fresh[key] = value
        self._effects.append((_save, key, value))

    # Timers are nobody else's business: set at once, and forgotten with a machine that raised.

    def set_timer(self, key: Hashable, delay: float) -> None:
        if not delay >= 0:
            raise LocalProtocolError(f"{self.slot.name} sets a timer in {delay} s; it is >= 0")
        old = self._timers.pop(key, None)
        if old is not None:
            old.cancel()
        due = self.now + delay
        self._timers[key] = self.drive.loop.call_at(due, self._due, key, due)

    def cancel_timer(self, key: Hashable) -> None:
        old = self._timers.pop(key, None)
        if old is not None:
            old.cancel()

    def _due(self, key: Hashable, due: float) -> None:
        if self.drive.loop.time() < due:  # asyncio rounds down by its clock's resolution; rule 4 does not
            self._timers[key] = self.drive.loop.call_at(due, self._due, key, due)
            return
        del self._timers[key]
        self.drive.enter(self, self.machine.on_timer, key)

    # Inputs that come from streams.

    def _message(self, peer: PeerId, msg: Any) -> None:
        self.drive.enter(self, self.machine.on_message, peer, msg)

    def _forged(self, peer: PeerId, msg: Any, bad: tuple[int, ...]) -> None:
        self.drive.enter(self, self.machine.on_forged, peer, msg, bad)

    def _renewed(self, peer: PeerId) -> None:
        if peer in self.up:
            self.drive.enter(self, self.machine.on_peer_up, peer)

    def on_request(self, peer: PeerId, msg: Any, token: Token) -> None:
        self.drive.enter(self, self.machine.on_request, peer, msg, token)

    def on_reply(self, key: Hashable, peer: PeerId, msg: Any) -> None:
        self.drive.enter(self, self.machine.on_reply, key, peer, msg)

    def on_failure(self, key: Hashable, peer: PeerId, reason: str) -> None:
        self.drive.enter(self, self.machine.on_failure, key, peer, reason)

    # The end of an input.

    def take_effect(self) -> None:
        """Do what was recorded; what must wait behind a record is held."""
        effects, self._effects = self._effects, []
        self._encoded = NOTHING
        for effect in effects:
            if self._barrier and effect[0] is not _save:
                if effect[0] is _send and len(self._held) >= HELD:
                    self.drive.counters["dropped.held"] += 1
                else:
                    self._held.append((self._barrier, effect))
            else:
                effect[0](self, *effect[1:])
        if self._fresh:
            self._fresh = {}

    def forget_input(self) -> None:
        """Nothing of this input takes place."""
        self._effects = []
        self._encoded = NOTHING
        self._fresh = {}

    def durable(self, batch: int) -> None:
        """Everything up to this batch is on the disk: what waited for it takes place."""
        held = self._held
        if self._barrier <= batch:
            self._barrier = 0
        while held and held[0][0] <= batch and self.alive:
            _, effect = held.popleft()
            effect[0](self, *effect[1:])

    def end(self) -> None:
        """No further input, no further effect."""
        self.alive = False
        self.forget_input()
        self._held.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers = {}
        self._lane.close()
        self._desk.close()
        self.up = {}

    @property
    def is_quiet(self) -> bool:
        """Whether all that it sent has left."""
        return not self._held and self._lane.is_quiet

    def _frame(self, msg: Any) -> bytes:
        codec = self.slot.spec.codec
        if codec is None:
            raise LocalProtocolError(f"{self.slot.name} sends a {type(msg).__name__} but has no codec")
        body = codec.encode(msg)
        return varint.encode(len(body)) + body

    def shares(self, spoken: frozenset[str] | None) -> bool:
        """Whether a peer that speaks these protocols concerns this machine; None: not known, so yes."""
        return not self.speaks or spoken is None or not self.speaks.isdisjoint(spoken)


# Effects: what takes place when an input is over. Module functions, so that a tuple can name them.


def _send(ctx: AioContext, peer: PeerId, frame: bytes, is_urgent: bool) -> None:
    ctx._lane.send(peer, frame, is_urgent)


def _request(ctx: AioContext, peer: PeerId, frame: bytes, key: Hashable, timeout: float) -> None:
    ctx._desk.ask(peer, frame, key, timeout)


def _reply(ctx: AioContext, token: Token, frame: bytes) -> None:
    ctx._desk.answer(token, frame)


def _connect(ctx: AioContext, peer: PeerId) -> None:
    ctx.drive.connect(ctx, peer)


def _disconnect(ctx: AioContext, peer: PeerId) -> None:
    ctx.drive.disconnect(ctx, peer)


def _emit(ctx: AioContext, event: Event) -> None:
    ctx.drive.emit(ctx, event)


def _save(ctx: AioContext, key: str, value: bytes | None) -> None:
    ctx._barrier = ctx.drive.store.put(ctx.slot.name, key, value)


class _Wanted:
    """A peer that machines wait for: who must be answered, and who still wants to hold it then."""

    __slots__ = ("by",)

    def __init__(self, ctx: AioContext) -> None:
        self.by: dict[AioContext, bool] = {ctx: True}


class Drive:
    """The machines of one node in motion."""

    def __init__(
        self,
        assembly: Assembly,
        me: PeerId,
        run_seed: bytes,
        house: House,
        swarm: Connecting,
        store: Store,
        counters: Counter[str],
    ) -> None:
        self.assembly = assembly
        self.me = me
        self.run_seed = run_seed
        self.house = house
        self.swarm = swarm
        self.store = store
        self.counters = counters
        self.loop = asyncio.get_running_loop()
        self.links = Links(swarm, counters)
        self.failures: dict[str, str] = {}
        """Machines that raised and were stopped, and what they raised."""
        self.contexts = tuple(AioContext(self, slot) for slot in assembly.slots)
        self._is_strict = os.environ.get("GROVE_STRICT") == "1"
        self._is_busy = False
        self._pending: deque[tuple[AioContext | None, Callable[..., None], tuple[Any, ...]]] = deque()
        self._wanting: dict[PeerId, _Wanted] = {}
        self._raised: BaseException | None = None

    # Life.

    def serve(self) -> None:
        """Accept streams for the machines; before the transports listen."""
        for ctx in self.contexts:
            for protocol in ctx.slot.spec.protocols:
                self.house.serve(protocol, ctx._lane.accept)
            for protocol in ctx.slot.spec.rpc:
                self.house.serve(protocol, ctx._desk.accept)

    def start(self) -> None:
        """Start the machines, in order."""
        for ctx in self.contexts:
            self.enter(ctx, ctx.machine.on_start)

    async def stop(self, patience: float = 1.0) -> None:
        """Tell the machines, in order, and let what they send leave; seconds at most."""
        for ctx in self.contexts:
            self.enter(ctx, ctx.machine.on_stop)
        self.links.flush()
        end = self.loop.time() + patience
        while not all(ctx.is_quiet for ctx in self.contexts) and self.loop.time() < end:
            await asyncio.sleep(0.01)
        self.abort()

    def abort(self) -> None:
        """Nothing moves and nothing leaves any more. Idempotent."""
        for ctx in self.contexts:
            if ctx.alive:
                ctx.end()
        self._pending.clear()
        self._wanting.clear()
        self.links.close()

    # Inputs.

    def enter(self, ctx: AioContext, method: Callable[..., None], *values: Any) -> None:
        """One input of one machine: now, or after the one that is running."""
        if self._is_busy:
            self._pending.append((ctx, method, values))
            return
        self._is_busy = True
        try:
            self._input(ctx, method, values)
            if self._pending:
                self._settle()
        finally:
            self._is_busy = False
        if self._raised is not None:
            self._raise()

    def _input(self, ctx: AioContext, method: Callable[..., None], values: tuple[Any, ...]) -> None:
        if not ctx.alive:
            return
        ctx.now = self.loop.time()
        try:
            method(ctx, *values)
            if ctx._effects:
                ctx.take_effect()
        except Exception as error:
            self._fail(ctx, error)

    def _settle(self) -> None:
        pending = self._pending
        while pending:
            ctx, method, values = pending.popleft()
            if ctx is None:
                method(*values)
            else:
                self._input(ctx, method, values)

    def _later(self, ctx: AioContext, method: Callable[..., None], *values: Any) -> None:
        """An input that comes from an effect: after everything that waits already."""
        self._pending.append((ctx, method, values))
        if not self._is_busy:
            self.loop.call_soon(self._outside, lambda: None)

    def _outside(self, act: Callable[[], None]) -> None:
        """Something happened that belongs to no input; its consequences are settled at once."""
        if self._is_busy:
            act()
            return
        self._is_busy = True
        try:
            act()
            self._settle()
        finally:
            self._is_busy = False
        if self._raised is not None:
            self._raise()

    def call(self, ctx: AioContext, act: Callable[[Any, Any], Any]) -> Any:
        """An application's input: runs now, and its result is given back. See `roles.Call`."""
        if self._is_busy:
            raise LocalProtocolError(
                f"{ctx.slot.name} was called from inside a machine's input; emit instead"
            )
        if not ctx.alive:
            cause = self.failures.get(ctx.slot.name)
            raise LocalProtocolError(
                f"{ctx.slot.name} was stopped because it raised {cause}" if cause
                else f"{ctx.slot.name} is not running"
            )  # fmt: skip
        self._is_busy = True
        try:
            ctx.now = self.loop.time()
            try:
                result = act(ctx.machine, ctx)
                if ctx._effects:
                    ctx.take_effect()
            except GroveError:
                ctx.forget_input()  # refused with a reason, as a method may: the machine lives on
                raise
            except Exception as error:
                self._fail(ctx, error)
                self._raised = None
                raise
            finally:
                self._settle()
        finally:
            self._is_busy = False
        if self._raised is not None:
            self._raise()
        return result

    def _fail(self, ctx: AioContext, error: Exception) -> None:
        """A machine raised: it is stopped, the node goes on without it."""
        name = ctx.slot.name
        log.error("%s raised and was stopped; the node goes on without it", name, exc_info=error)
        self.failures[name] = f"{type(error).__name__}: {error}"
        self.counters[f"failed.{name}"] += 1
        ctx.end()
        self.swarm.release_all(name)
        for wanted in self._wanting.values():
            wanted.by.pop(ctx, None)
        for protocol in ctx.slot.spec.protocols + ctx.slot.spec.rpc:
            self.house.unserve(protocol)
        if isinstance(error, StoreError):
            self.house.broken(error)
        elif self._is_strict:
            self._raised = error

    def _raise(self) -> None:
        error, self._raised = self._raised, None
        assert error is not None
        self.house.broken(error)
        raise error

    # Records.

    def durable(self, batch: int) -> None:
        """The store's word: see `Store.on_durable`."""

        def release() -> None:
            for ctx in self.contexts:
                if ctx._barrier or ctx._held:
                    try:
                        ctx.durable(batch)
                    except Exception as error:
                        self._fail(ctx, error)

        self._outside(release)

    # Events.

    def emit(self, source: AioContext | None, event: Event) -> None:
        """Siblings in node order, after this input, then the application."""
        self.house.emitted(event)
        pending = self._pending
        for slot in self.assembly.listeners(event):
            ctx = self.contexts[slot.index]
            if ctx is not source:
                pending.append((ctx, ctx.machine.on_event, (event,)))
        pending.append((None, self.house.published, (event,)))

    # Peers.

    def connect(self, ctx: AioContext, peer: PeerId) -> None:
        """Hold a connection; the answer is an input of its own."""
        if peer == self.me:
            self._later(ctx, ctx.machine.on_failure, CONNECT, peer, "unreachable")
        elif self.swarm.is_up(peer):
            self._answer(ctx, peer, keep=True)
        else:
            wanted = self._wanting.get(peer)
            if wanted is not None:
                wanted.by[ctx] = True
                return
            wanted = self._wanting[peer] = _Wanted(ctx)
            self.swarm.reach(peer).add_done_callback(partial(self._reached, peer, wanted))

    def _answer(self, ctx: AioContext, peer: PeerId, *, keep: bool) -> None:
        if not ctx.shares(self.swarm.speaks(peer)):
            self._later(ctx, ctx.machine.on_failure, CONNECT, peer, "refused")
            return
        if keep:
            self.swarm.hold(peer, ctx.slot.name)
            ctx._lane.open(peer)
        ctx.up[peer] = None
        self._later(ctx, ctx.machine.on_peer_up, peer)

    def _reached(self, peer: PeerId, wanted: _Wanted, dial: asyncio.Future[Any]) -> None:
        """A dial is over. If it was good the peer is up and everybody was answered (`peer_up`)."""
        error = None if dial.cancelled() else dial.exception()
        if self._wanting.get(peer) is not wanted:
            return
        del self._wanting[peer]
        reason = "timeout" if isinstance(error, TimeoutError) else "unreachable"

        def tell() -> None:
            for ctx in wanted.by:
                self._later(ctx, ctx.machine.on_failure, CONNECT, peer, reason)

        self._outside(tell)

    def disconnect(self, ctx: AioContext, peer: PeerId) -> None:
        """Hold it no longer; `Connections.idle` does the rest."""
        wanted = self._wanting.get(peer)
        if wanted is not None and ctx in wanted.by:
            wanted.by[ctx] = False
        self.swarm.release(peer, ctx.slot.name)

    def peer_up(self, peer: PeerId) -> None:
        """A peer is connected and we know what it speaks: machines that share a protocol hear of it."""

        def tell() -> None:
            wanted = self._wanting.pop(peer, None)
            waiting = {} if wanted is None else wanted.by
            spoken = self.swarm.speaks(peer)
            for ctx in self.contexts:
                if ctx in waiting:
                    self._answer(ctx, peer, keep=waiting[ctx])
                elif ctx.alive and ctx.shares(spoken):
                    ctx.up[peer] = None
                    self._later(ctx, ctx.machine.on_peer_up, peer)

        self._outside(tell)

    def peer_changed(self, peer: PeerId) -> None:
        """A peer that is up speaks other protocols than before: it may concern more machines now."""

        def tell() -> None:
            spoken = self.swarm.speaks(peer)
            for ctx in self.contexts:
                if ctx.alive and peer not in ctx.up and ctx.shares(spoken):
                    ctx.up[peer] = None
                    self._later(ctx, ctx.machine.on_peer_up, peer)

        self._outside(tell)

    def peer_down(self, peer: PeerId) -> None:
        """The last connection to a peer that was up is gone; what it said before is heard before."""
        for ctx in self.contexts:
            ctx._lane.lost(peer)

        def tell() -> None:
            for ctx in self.contexts:
                if peer in ctx.up:
                    del ctx.up[peer]
                    self._later(ctx, ctx.machine.on_peer_down, peer)

        self._outside(tell)

    def sweep(self, idle: float) -> None:
        """Finish streams that nobody needs."""
        now = self.loop.time()
        for ctx in self.contexts:
            ctx._lane.sweep(now, idle)
