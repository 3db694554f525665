"""The log: read up to its end as of one revision, then watched from there.

Reading is a transaction of head, tail and the next entries, so that it never mistakes a log that was
trimmed for one that was not; whenever a watch ends, for whatever reason, reading begins again where
handing over stopped. What etcd has compacted costs nothing by that: entries are keys that are still
there, or they are in the snapshot.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, Literal

import msgspec

from grove_consensus_etcd.api import Answer, Done, Ended, Entry, Failed, Get, Txn
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.events import Watched
from grove_consensus_etcd.layout import MAX_COMMAND, Head, decode_head
from grove_consensus_etcd.machine.asking import Asking, Ctx
from grove_core.errors import RemoteProtocolError
from grove_core.events import Committed, Restored
from grove_core.machine import PeerId

FOLLOW: Final = "follow"
STALL: Final = "stall"

FIRST_PAGE, LARGEST_PAGE = 16, 4096
"""Entries asked for at once: doubles while they come in less than `FULL` bytes, else halves."""

FULL: Final = 1 << 20


class Page(msgspec.Struct, frozen=True):
    """Purpose: the next entries."""


class Piece(msgspec.Struct, frozen=True):
    """Purpose: a piece of the snapshot."""

    number: int


class Fetching(msgspec.Struct):
    """A snapshot on its way."""

    head: Head
    pieces: list[bytes]


class Following(Asking):
    """Hands over what was agreed on."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.followed = 0
        self.standing: Literal["idle", "reading", "watching"] = "idle"
        self.watch = 0
        """Number of the watch that counts."""
        self.page = FIRST_PAGE
        self.fetching: Fetching | None = None
        self.head: Head | None = None
        """The newest snapshot we know to be stored."""
        self.under: int | None = None
        """The revision of the head under which we append; None before the log was read once."""
        self.newer: tuple[int, int] | None = None
        """A newer head's revision, and how far we must have followed before it counts."""
        self.skipped = 0
        """Keys below our prefix that nobody of ours wrote."""
        self.expected = 0
        """How far the log is known to go."""
        self.last_proposer: PeerId | None = None

    # Reading.

    def catch_up(self, ctx: Ctx) -> None:
        """Read from where handing over stopped, then watch. Nothing if that is under way."""
        if self.standing == "reading" or not self.is_linked or self.broken:
            return
        self.standing = "reading"
        self.watch = 0
        ctx.cancel_timer(FOLLOW)
        self._read(ctx)

    def _read(self, ctx: Ctx) -> None:
        layout = self.layout
        entries = Get(
            layout.log, layout.log_end, limit=self.page, since=self.followed + 1, by_revision=True
        )
        self.ask(ctx, Page(), Txn(then=(Get(layout.head), Get(layout.tail), entries)))

    def on_answer(self, ctx: Ctx, purpose: object, answer: Answer, asked: float) -> None:
        match purpose, answer:
            case Page(), Done():
                self._on_page(ctx, answer)
            case Piece(number), Done():
                self._on_piece(ctx, number, answer)
            case ((Page() | Piece()), _):
                assert isinstance(answer, Failed)
                self.page = max(1, self.page // 4)  # perhaps it was too much at once
                self._again(ctx)
            case _:
                super().on_answer(ctx, purpose, answer, asked)

    def _again(self, ctx: Ctx) -> None:
        self.standing, self.fetching = "idle", None
        ctx.set_timer(FOLLOW, self.pause(ctx))

    def _on_page(self, ctx: Ctx, done: Done) -> None:
        heads, _, entries = done.found
        head = self._know(ctx, heads)
        if head is not None and (head.floor > self.followed or (self.followed == 0 < head.index)):
            self.fetching = Fetching(head, [])
            self._fetch(ctx)
            return
        size = sum(len(entry.value) + len(entry.key) for entry in entries)
        if size > FULL:
            self.page = max(1, self.page // 2)
        elif len(entries) == self.page:
            self.page = min(2 * self.page, LARGEST_PAGE)
        self.hand_over(ctx, entries)
        if self.broken:
            self.standing = "idle"
            return
        if done.more:
            self._read(ctx)
            return
        self.followed = done.revision
        self.under = heads[0].modified if heads else 0
        self.newer = None
        self.standing = "watching"
        self.watch = self.number = self.number + 1
        ctx.emit(Watched(self.watch, self.layout.log, self.layout.log_end, done.revision + 1))
        self.followed_further(ctx)

    def _know(self, ctx: Ctx, heads: tuple[Entry, ...]) -> Head | None:
        """What stands at the head. One that nobody of ours wrote breaks the village's log."""
        if not heads:
            return None
        try:
            head = decode_head(heads[0].value)
        except RemoteProtocolError as error:
            self.distrust(ctx, f"{self.layout.head.decode(errors='replace')} was overwritten ({error})")
            return None
        if self.head is None or head.index > self.head.index:
            self.head = head
        return head

    # A snapshot.

    def _fetch(self, ctx: Ctx) -> None:
        fetching = self.fetching
        assert fetching is not None
        number = len(fetching.pieces)
        self.ask(ctx, Piece(number), Txn(then=(Get(self.layout.piece(fetching.head.folder, number)),)))

    def _on_piece(self, ctx: Ctx, number: int, done: Done) -> None:
        fetching = self.fetching
        if fetching is None or number != len(fetching.pieces):
            return
        (found,) = done.found
        if not found:  # a newer one has replaced it meanwhile
            self._again(ctx)
            return
        fetching.pieces.append(found[0].value)
        if len(fetching.pieces) < fetching.head.pieces:
            self._fetch(ctx)
            return
        state, head = b"".join(fetching.pieces), fetching.head
        self.fetching = None
        if len(state) != head.size or sha256(state).digest() != head.digest:
            self.distrust(ctx, f"the snapshot as of {head.index} is not what its head says")
            self.standing = "idle"
            return
        self.restore(ctx, head.index, state)
        self._read(ctx)

    def restore(self, ctx: Ctx, index: int, state: bytes) -> None:
        self.followed = index
        self.reached(ctx, index)
        ctx.emit(Restored(index, state))

    # Watching.

    def heard_commits(self, ctx: Ctx, entries: tuple[Entry, ...]) -> None:
        self.hand_over(ctx, entries)
        self.followed_further(ctx)

    def lost_watch(self, ctx: Ctx, over: Ended) -> None:
        """Read on from where it stopped."""
        self.watch = 0
        self.standing = "idle"
        if over.compacted:
            self.catch_up(ctx)
            return
        self.failures += 1
        self.failure = over.reason
        ctx.set_timer(FOLLOW, self.pause(ctx))

    def expect(self, ctx: Ctx, index: int) -> None:
        """Something was agreed on at index: if the watch does not tell, it is not to be relied on."""
        if index > self.followed and index > self.expected:
            if self.expected <= self.followed:
                ctx.set_timer(STALL, self.config.stall)
            self.expected = index

    def on_stall_timer(self, ctx: Ctx) -> None:
        if self.standing == "watching" and self.followed < self.expected:
            self.catch_up(ctx)
        if self.followed < self.expected:
            ctx.set_timer(STALL, self.config.stall)

    # Handing over.

    def hand_over(self, ctx: Ctx, entries: tuple[Entry, ...]) -> None:
        """Invariant 1. Entries come in the order of their revisions."""
        for entry in entries:
            if entry.modified <= self.followed:
                continue
            if entry.version != 1 or entry.created != entry.modified:
                self.distrust(
                    ctx, f"somebody changed the command at {entry.key[:160].decode(errors='replace')}"
                )
                return
            try:
                proposer, id = self.layout.read_entry(entry.key)
            except RemoteProtocolError:
                self.skipped += 1
                continue
            self.followed = entry.modified
            if len(entry.value) > MAX_COMMAND:
                self.skipped += 1
                continue
            self.last_proposer = proposer
            self.reached(ctx, entry.modified)
            ctx.emit(Committed(entry.modified, id, proposer, entry.value))
            self.committed(ctx, proposer, id)

    def committed(self, ctx: Ctx, proposer: PeerId, id: bytes) -> None:
        """A command was handed over."""

    def followed_further(self, ctx: Ctx) -> None:
        """Everything up to `followed` was handed over, and that is more than before."""
        if self.newer is not None and self.followed >= self.newer[1]:
            self.under, self.newer = self.newer[0], None

    def meet_head(self, ctx: Ctx, heads: tuple[Entry, ...], tails: tuple[Entry, ...]) -> None:
        """head and tail as of one revision; a newer head counts once all before it was heard (2)."""
        self._know(ctx, heads)
        end = tails[0].modified if tails else 0
        self.expect(ctx, end)
        modified = heads[0].modified if heads else 0
        if self.under is not None and modified > max(self.under, self.newer[0] if self.newer else 0):
            self.newer = (modified, end)
            self.followed_further(ctx)
