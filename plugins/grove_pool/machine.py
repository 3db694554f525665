"""The pool as a machine: dial when few are held, take who comes, prune when there are too many.

Candidates come from discovery (PeerFound), from `join`, from the last life and from connections
that were lost. Every held connection is a neighbour: NeighborUp when it is up, NeighborDown when it
is lost, pruned or left.

Left to others: finding peers (discovery), opening connections (the driver), and saying anything
over them (whoever hears NeighborUp).

Invariants, between two inputs:
1. `held`, `dialing` and `candidates` are disjoint, and the node itself is in none.
2. |held| <= high, |candidates| <= candidates, and beyond what `join` was given |dialing| <= dials.
3. A peer that dialled us never replaces one that we dialled while those are at most `outbound`.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from grove_core.events import NeighborDown, NeighborUp, PeerFound
from grove_core.machine import CONNECT, Context, Machine, PeerId, handles
from grove_pool.config import Config
from grove_pool.messages import Kept

Ctx: TypeAlias = Context[Any]

Direction = Literal["out", "in"]

FILL: Final = "fill"
SAVE: Final = "save"
HELD: Final = "held"
VERSION: Final = 1


class Candidate:
    """A peer in reserve: how often dialling it failed in a row, and when it may be tried again."""

    __slots__ = ("failures", "not_before")

    def __init__(self, failures: int = 0, not_before: float = 0.0) -> None:
        self.failures = failures
        self.not_before = not_before


class Pool(Machine[Any]):
    """One node's membership. Emits NeighborUp, NeighborDown and, after a restart, PeerFound."""

    __slots__ = ("_is_filling", "_is_saving", "candidates", "config", "dialing", "has_left", "held")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.held: dict[PeerId, Direction] = {}
        """Neighbours, oldest first."""
        self.dialing: dict[PeerId, Candidate] = {}
        """Peers whose connection we asked for, with their record as candidates."""
        self.candidates: dict[PeerId, Candidate] = {}
        self.has_left = False
        self._is_filling = False
        self._is_saving = False

    # The role (grove_core.roles.MembershipMachine).

    def neighbors(self) -> tuple[PeerId, ...]:
        """Peers whose connection is held and up, oldest first."""
        return tuple(self.held)

    def known(self) -> tuple[PeerId, ...]:
        """Candidates, oldest first."""
        return tuple(self.candidates)

    def join(self, ctx: Ctx, contact: PeerId) -> None:
        """Dial a peer now, whatever the water mark; retried with growing waits."""
        self.has_left = False
        if contact != ctx.me and contact not in self.held and contact not in self.dialing:
            self._dial(ctx, contact, self.candidates.pop(contact, Candidate()))

    def leave(self, ctx: Ctx) -> None:
        """Let go of every connection and forget every candidate. `join` ends it."""
        self.has_left = True
        for peer in (*self.held, *self.dialing):
            ctx.disconnect(peer, "leave")
        for peer in self.held:
            ctx.emit(NeighborDown(peer))
        self.held.clear()
        self.dialing.clear()
        self.candidates.clear()
        ctx.cancel_timer(FILL)
        ctx.cancel_timer(SAVE)
        self._is_filling = self._is_saving = False
        ctx.save(HELD, None)

    # Life.

    def on_start(self, ctx: Ctx) -> None:
        """Go back to the peers of the last life."""
        for peer, record in _restored(ctx.load(HELD))[: self.config.candidates]:
            if record:
                ctx.emit(PeerFound(peer, record))
            self._keep(ctx, peer, Candidate())

    def on_stop(self, ctx: Ctx) -> None:
        if self.config.save_delay:
            self._save(ctx)

    # Who comes and goes.

    @handles(PeerFound)
    def on_peer_found(self, ctx: Ctx, event: PeerFound) -> None:
        if not self.has_left:
            self._keep(ctx, event.peer, Candidate())

    def on_peer_up(self, ctx: Ctx, peer: PeerId) -> None:
        """A dial succeeded, or somebody dialled us: held if there is room, left alone if not."""
        if self.has_left or peer in self.held:
            return
        if self.dialing.pop(peer, None) is not None:
            self._hold(ctx, peer, "out")
        elif len(self.held) < self.config.high:
            self.candidates.pop(peer, None)
            ctx.connect(peer)
            self._hold(ctx, peer, "in")

    def on_peer_down(self, ctx: Ctx, peer: PeerId) -> None:
        """A neighbour is lost; after the first wait it may be dialled, whoever dialled before."""
        if self.held.pop(peer, None) is not None:
            ctx.emit(NeighborDown(peer))
            self._changed(ctx)
            self._keep(ctx, peer, Candidate(0, ctx.now + self.config.backoff_min))

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        """A dial failed: wait twice as long as last time; after `give_up` times forget the peer."""
        if key is not CONNECT:
            return
        if peer in self.held:
            self.on_peer_down(ctx, peer)
            return
        candidate = self.dialing.pop(peer, None)
        if candidate is not None:
            candidate.failures += 1
            if candidate.failures < self.config.give_up:
                wait = self.config.backoff_min * 2.0 ** (candidate.failures - 1)
                # Drawn from the upper half, so that a village does not redial a lost node in step.
                wait = min(wait, self.config.backoff_max) * (0.5 + ctx.rng.random() / 2)
                candidate.not_before = ctx.now + wait
                self._keep(ctx, peer, candidate)
            self._fill(ctx)

    # Water marks.

    def _fill(self, ctx: Ctx) -> None:
        """Dial candidates, drawn at random, while too few are held or too few of them are ours."""
        free = min(self._wanted() - len(self.dialing), self.config.dials - len(self.dialing))
        if free > 0 and not self.has_left:
            ready = [peer for peer, one in self.candidates.items() if one.not_before <= ctx.now]
            for _ in range(min(free, len(ready))):
                peer = ready.pop(int(ctx.rng.random() * len(ready)))
                self._dial(ctx, peer, self.candidates.pop(peer))
        self._look_again(ctx)

    def _wanted(self) -> int:
        """Dials that would have to succeed for the pool to be content."""
        ours = sum(1 for direction in self.held.values() if direction == "out")
        return max(self.config.low - len(self.held), self.config.outbound - ours, 0)

    def _look_again(self, ctx: Ctx) -> None:
        """Come back in `fill_interval` if somebody is left to dial; an idle pool has no timer."""
        if not self._is_filling and self.candidates and self._wanted() and not self.has_left:
            self._is_filling = True
            ctx.set_timer(FILL, self.config.fill_interval * (0.5 + ctx.rng.random() / 2))

    def _dial(self, ctx: Ctx, peer: PeerId, candidate: Candidate) -> None:
        self.dialing[peer] = candidate
        ctx.connect(peer)

    def _hold(self, ctx: Ctx, peer: PeerId, direction: Direction) -> None:
        """A new neighbour; if that is one too many, another is pruned."""
        self.held[peer] = direction
        ctx.emit(NeighborUp(peer))
        if len(self.held) > self.config.high:
            self._prune(ctx, peer)
        self._changed(ctx)
        self._look_again(ctx)
        assert len(self.held) <= self.config.high

    def _prune(self, ctx: Ctx, newest: PeerId) -> None:
        """Let go of a random peer that dialled us, or of one of ours if we have enough of them."""
        others = [peer for peer in self.held if peer != newest]
        inbound = [peer for peer in others if self.held[peer] == "in"]
        choice = inbound or others
        peer = choice[int(ctx.rng.random() * len(choice))]
        del self.held[peer]
        ctx.disconnect(peer, "too many connections")
        ctx.emit(NeighborDown(peer))
        self._keep(ctx, peer, Candidate(0, ctx.now + self.config.backoff_min))

    def _keep(self, ctx: Ctx, peer: PeerId, candidate: Candidate) -> None:
        """Into the reserve, in place of the least promising one if it is full."""
        if peer == ctx.me or peer in self.held or peer in self.dialing or peer in self.candidates:
            return
        if len(self.candidates) >= self.config.candidates:
            worst = max(self.candidates, key=lambda one: self.candidates[one].failures)
            del self.candidates[worst]
        self.candidates[peer] = candidate
        if candidate.not_before <= ctx.now and self._wanted() > len(self.dialing):
            self._fill(ctx)
        else:
            self._look_again(ctx)

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == FILL:
            self._is_filling = False
            self._fill(ctx)
        elif key == SAVE:
            self._save(ctx)

    # Records: a restarted node goes back in by itself.

    def _changed(self, ctx: Ctx) -> None:
        if self.config.save_delay and not self._is_saving:
            self._is_saving = True
            ctx.set_timer(SAVE, self.config.save_delay)

    def _save(self, ctx: Ctx) -> None:
        self._is_saving = False
        kept = Kept(VERSION, tuple((peer, ctx.record(peer)) for peer in self.held))
        ctx.save(HELD, msgspec.msgpack.encode(kept))


def _restored(record: bytes | None) -> tuple[tuple[PeerId, bytes], ...]:
    """The peers held in the last life; none if another version wrote them."""
    if record is None:
        return ()
    try:
        kept = msgspec.msgpack.decode(record, type=Kept)
    except msgspec.DecodeError:
        return ()
    return kept.peers if kept.version == VERSION else ()
