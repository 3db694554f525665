"""Snapshots of the state machine above, kept in etcd so that the log can be trimmed.

Every member is told the same state at the same index (SnapshotTaken); the proposer of the command at
that index stores it, or, if that does not happen for a while, somebody else does:

    1. the pieces, in a folder of their own;
    2. the head that names them, if the head is still the one we knew;
    3. what the head made superfluous is deleted: log entries up to the floor, older pieces.

Whoever fails in between leaves garbage that the next one's step 3 takes along.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec

from grove_consensus_etcd.api import Answer, Delete, Done, Failed, Get, If, Put, Txn
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.layout import MAX_STATE, PIECE, Head, encode_head
from grove_consensus_etcd.machine.appending import Appending
from grove_consensus_etcd.machine.asking import Ctx
from grove_core.events import SnapshotTaken
from grove_core.machine import handles

STORE: Final = "store"

SWEEP: Final = 100
"""Keys deleted by one transaction; etcd takes 128 operations unless told otherwise."""

TRIES: Final = 20
"""Failures after which a snapshot is given up; the next one comes."""


class Store(msgspec.Struct, frozen=True):
    """Purpose: a piece of our snapshot."""

    number: int


class Crown(msgspec.Struct, frozen=True):
    """Purpose: the head that names our snapshot."""


class Find(msgspec.Struct, frozen=True):
    """Purpose: what is superfluous."""

    floor: int


class Sweep(msgspec.Struct, frozen=True):
    """Purpose: deleting it. is_last: there is no more."""

    floor: int
    is_last: bool


class Writing(msgspec.Struct):
    """A snapshot being stored."""

    head: Head
    state: bytes
    done: int = 0
    failures: int = 0


class Snapshots(Appending):
    """Keeps the log short."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.newest: tuple[int, bytes] | None = None
        """The last state we were told, unless a stored one is as new."""
        self.writing: Writing | None = None

    @handles(SnapshotTaken)
    def on_snapshot_taken(self, ctx: Ctx, event: SnapshotTaken) -> None:
        if len(event.state) > MAX_STATE or not 0 < event.index <= self.followed:
            return
        if self.newest is not None and event.index <= self.newest[0]:
            return
        self.newest = (event.index, event.state)
        is_ours = self.last_proposer == ctx.me
        wait = self.config.snapshot_delay * ctx.rng.uniform(1.0, 2.0)
        ctx.set_timer(STORE, 0.0 if is_ours else wait)

    def store(self, ctx: Ctx) -> None:
        """Begin to store the newest state, or go on with it."""
        if not self.is_linked or self.broken or self._is_busy_storing():
            return
        if self.writing is None:
            if self.newest is None or self.under is None:
                return
            index, state = self.newest
            if self.head is not None and self.head.index >= index:
                self.newest = None
                return
            floor = max(self.head.floor if self.head else 0, index - self.config.trailing)
            folder = self.layout.folder(index, ctx.me)
            head = Head(index, max(0, floor), folder, len(state), sha256(state).digest())
            self.writing = Writing(head, state)
        writing = self.writing
        if writing.done < writing.head.pieces:
            self._store_piece(ctx, writing)
        else:
            self._crown(ctx, writing)

    def _is_busy_storing(self) -> bool:
        return any(self.is_asking(kind) for kind in (Store, Crown, Find, Sweep))

    def _store_piece(self, ctx: Ctx, writing: Writing) -> None:
        number = writing.done
        piece = writing.state[number * PIECE : (number + 1) * PIECE]
        key = self.layout.piece(writing.head.folder, number)
        self.ask(ctx, Store(number), Txn(then=(Put(key, piece),)))

    def _crown(self, ctx: Ctx, writing: Writing) -> None:
        """The head as we knew it when all before it was heard: so `index` is above its own."""
        layout, known = self.layout, self.head
        assert self.under is not None
        if known is not None:
            if known.index >= writing.head.index:  # stored by somebody else meanwhile
                self.writing = None
                self._lost_race(ctx, writing)
                return
            floor = max(writing.head.floor, known.floor)
            writing.head = msgspec.structs.replace(writing.head, floor=floor)
        self.ask(
            ctx,
            Crown(),
            Txn(
                (If(layout.head, "modified", self.under),),
                (Put(layout.head, encode_head(writing.head)), Get(layout.head), Get(layout.tail)),
                (Get(layout.head), Get(layout.tail)),
            ),
        )

    def on_answer(self, ctx: Ctx, purpose: object, answer: Answer, asked: float) -> None:
        writing = self.writing
        match purpose, answer:
            case ((Store() | Crown()), Failed()):
                if writing is not None:
                    writing.failures += 1
                    if writing.failures >= TRIES or answer.kind == "refused":
                        self.writing = self.newest = None
                    else:
                        ctx.set_timer(STORE, self.pause(ctx))
            case Store(number), Done() if writing is not None:
                writing.done = number + 1
                self.store(ctx)
            case Crown(), Done(_, _, succeeded, found) if writing is not None:
                self.meet_head(ctx, found[-2], found[-1])
                self.writing = None
                if self.head is not None and self.head == writing.head:
                    self._find(ctx, writing.head.floor)  # also if an earlier try had taken place
                elif not succeeded:
                    self._lost_race(ctx, writing)
            case Find(floor), Done():
                self._sweep(ctx, floor, answer)
            case Sweep(floor, is_last), Done():
                if not is_last:
                    self._find(ctx, floor)
                else:
                    self._rest(ctx)
            case ((Find() | Sweep()), Failed()):
                self._rest(ctx)  # the next snapshot sweeps this too
            case _:
                super().on_answer(ctx, purpose, answer, asked)

    def _lost_race(self, ctx: Ctx, writing: Writing) -> None:
        """The head is another's, or newer than what we knew: our pieces are of no use to anybody."""
        folder = self.layout.state + writing.head.folder.encode()
        self.ask(ctx, Sweep(0, True), Txn(then=(Delete(folder + b"/", folder + b"0"),)))

    def _find(self, ctx: Ctx, floor: int) -> None:
        layout = self.layout
        old = Get(layout.log, layout.log_end, limit=SWEEP, until=floor, keys_only=True)
        self.ask(ctx, Find(floor), Txn(then=(old,)))

    def _sweep(self, ctx: Ctx, floor: int, done: Done) -> None:
        layout, head = self.layout, self.head
        deletions = [Delete(entry.key) for entry in done.found[0]]
        is_last = len(deletions) < SWEEP
        if is_last and head is not None:
            deletions.append(Delete(layout.state, layout.state + head.folder.encode()))
        if deletions:
            self.ask(ctx, Sweep(floor, is_last), Txn(then=tuple(deletions)))

    def _rest(self, ctx: Ctx) -> None:
        if self.newest is not None:  # a newer one was taken meanwhile, or ours lost to an older one
            ctx.set_timer(STORE, self.config.snapshot_delay * ctx.rng.uniform(0.5, 1.0))
