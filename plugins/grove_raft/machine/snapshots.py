"""Snapshots (§5): the log is forgotten behind them, and who needs what is forgotten gets them in pieces.

The state machine decides when (SnapshotTaken). A snapshot carries the configuration as of its index.
Pieces follow each other within the window and are acknowledged by offset; a follower keeps them in
memory until all are there, then makes the whole durable at once.
"""

from __future__ import annotations

from grove_core.events import Restored, SnapshotTaken
from grove_core.machine import PeerId, handles
from grove_raft.log import Snapshot
from grove_raft.machine.replication import Replication
from grove_raft.machine.state import Ctx
from grove_raft.messages import Appended, Chunk, ChunkTaken
from grove_raft.progress import Progress


class Incoming:
    """A snapshot that is coming in: from whom, in which term, and what is here of it."""

    __slots__ = ("data", "index", "leader", "term", "total")

    def __init__(self, leader: PeerId, msg: Chunk) -> None:
        self.leader = leader
        self.term = msg.term
        self.index = msg.index
        self.total = msg.total
        self.data = bytearray()

    def is_of(self, leader: PeerId, msg: Chunk) -> bool:
        return (self.leader, self.term, self.index, self.total) == (
            leader,
            msg.term,
            msg.index,
            msg.total,
        )


class Snapshots(Replication):
    """How the past is forgotten and yet passed on."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.incoming: Incoming | None = None

    @handles(SnapshotTaken)
    def on_snapshot_taken(self, ctx: Ctx, event: SnapshotTaken) -> None:
        """The state machine can do without what came before. One that is not news is ignored."""
        log = self.log
        is_news = log.snapshot.index < event.index <= self.applied
        if is_news and event.index > log.offset and len(event.state) <= self.config.max_snapshot:
            log.take_snapshot(ctx, event.index, event.state, self.config.trailing)

    # Leaders.

    def send_snapshot(self, ctx: Ctx, peer: PeerId, progress: Progress) -> None:
        """Begin, or go on from what is acknowledged: called anew with each heartbeat."""
        snapshot = self.log.snapshot
        assert snapshot.index, "entries are forgotten only behind a snapshot"
        if progress.state != "snapshot" or progress.snapshot != snapshot.index:
            progress.send_snapshot(snapshot.index)
        # A heartbeat's interval without progress: what is out may be lost.
        progress.sent = progress.taken
        self._send_pieces(ctx, peer, progress)

    def _send_pieces(self, ctx: Ctx, peer: PeerId, progress: Progress) -> None:
        log, snapshot = self.log, self.log.snapshot
        total = len(snapshot.state)
        while progress.sent - progress.taken < self.config.inflight_bytes:
            data = snapshot.state[progress.sent : progress.sent + self.config.append_bytes]
            self.send(
                ctx,
                peer,
                Chunk(
                    log.group, log.term, snapshot.index, snapshot.term, snapshot.members,
                    progress.sent, total, data, self.round,
                ),
            )  # fmt: skip
            progress.sent += len(data)
            if progress.sent >= total:
                return

    @handles(ChunkTaken)
    def on_chunk_taken(self, ctx: Ctx, peer: PeerId, msg: ChunkTaken) -> None:
        if not self.is_ours(ctx, peer, msg.group):
            return
        progress = self.progress.get(peer)
        if self.standing != "leader" or msg.term != self.log.term or progress is None:
            return
        if msg.round > self.round:
            return
        progress.is_active = True
        progress.round = max(progress.round, msg.round)
        if msg.loss:
            self.consider_loss(ctx, peer, progress, msg.loss, 0)
            if self.standing != "leader":
                return
        if progress.state == "snapshot" and msg.index == progress.snapshot == self.log.snapshot.index:
            total = len(self.log.snapshot.state)
            if progress.taken < msg.offset < total:
                progress.takes(msg.offset, msg.round)
                progress.sent = max(progress.sent, msg.offset)
                if progress.sent < total:
                    self._send_pieces(ctx, peer, progress)
            elif msg.offset < progress.taken and msg.round > progress.taken_in:
                # Pieces newer than what it acknowledged found less there: it began another life.
                progress.takes(msg.offset, msg.round)
                progress.sent = msg.offset
                self._send_pieces(ctx, peer, progress)
        self.heard_from(ctx, peer, progress)

    # Followers.

    @handles(Chunk)
    def on_chunk(self, ctx: Ctx, peer: PeerId, msg: Chunk) -> None:
        if not self.enlist(ctx, peer, msg.group) or not self.accept_leader(
            ctx, peer, msg.term, msg.round
        ):
            return
        log = self.log
        if msg.index <= self.commit or log.term_at(msg.index) == msg.last_term:
            # We have what it stands for: never go back to an older state (etcd PR#1763).
            if self.incoming is not None and self.incoming.index <= msg.index:
                self.incoming = None
            if msg.index > self.commit:
                self.commit_up_to(ctx, msg.index)
            self._took(ctx, peer, msg)
            return
        if msg.total > self.config.max_snapshot or msg.offset + len(msg.data) > msg.total:
            return
        if self.incoming is None or not self.incoming.is_of(peer, msg):
            self.incoming = Incoming(peer, msg)
        data = self.incoming.data
        if msg.offset == len(data):
            data += msg.data
        if len(data) < msg.total:
            taken = ChunkTaken(log.group, log.term, msg.index, len(data), msg.round, log.loss)
            self.send(ctx, peer, taken)
            return
        self.incoming = None
        self.install(ctx, Snapshot(msg.index, msg.last_term, msg.members, bytes(data)))
        self._took(ctx, peer, msg)

    def _took(self, ctx: Ctx, peer: PeerId, msg: Chunk) -> None:
        log = self.log
        self.send(ctx, peer, Appended(log.group, log.term, True, msg.index, msg.round, loss=log.loss))

    def install(self, ctx: Ctx, snapshot: Snapshot) -> None:
        """Take a state in place of the commands up to it."""
        self.log.install(ctx, snapshot)
        self.commit = self.applied = snapshot.index
        self.hold_members(ctx)
        if self._is_awake:
            ctx.emit(Restored(snapshot.index, snapshot.state))
            self.announce_members(ctx)
        self.applied_up_to(ctx)
