"""etcd in a few lines, for virtual time: transactions, watches, leases, compaction, and bad days.

As much of etcd's key-value model as the plugin uses (one revision per writing transaction, all of it
or nothing; watches in order of revisions). `tests/test_model.py` holds it against a real etcd.

`Model` is only the data; `Etcd` puts it into a world as the companion of every node in it: what a
node asks takes place some time later, its answer comes some time after that, and on bad days either
is lost, or a request is carried out long after its asker gave it up.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from grove_consensus_etcd.api import (
    Answer,
    Delete,
    Done,
    Ended,
    Entry,
    Failed,
    Get,
    Grant,
    Heard,
    If,
    KeepAlive,
    Leased,
    Operation,
    Put,
    Request,
    Revoke,
    Txn,
)
from grove_consensus_etcd.events import Asked, Watched
from grove_core.drive.virtual import VirtualNode, World
from grove_core.machine import Event


class Model:
    """The state of one cluster."""

    def __init__(self, cluster: int = 7) -> None:
        self.cluster = cluster
        self.revision = 1
        self.compacted = 0
        self.keys: dict[bytes, Entry] = {}
        self.leases: dict[int, int] = {}  # and their length
        self.hanging: dict[bytes, int] = {}  # keys that hang on a lease
        self.history: list[Entry] = []  # everything ever put, ascending
        self.created: dict[bytes, int] = {}  # how often each key was created, ever
        self.told: list[Callable[[Entry], None]] = []

    def do(self, request: Request) -> Answer:
        match request:
            case Txn():
                return self._txn(request)
            case Grant(ttl):
                lease = 1000 + len(self.leases)
                self.leases[lease] = ttl
                return Leased(self.cluster, lease, ttl)
            case KeepAlive(lease):
                return Leased(self.cluster, lease, self.leases.get(lease, 0))
            case Revoke(lease):
                self.end(lease)
                return Leased(self.cluster, lease, 0)

    def end(self, lease: int) -> None:
        """A lease is over: its keys go, at one revision."""
        self.leases[lease] = 0
        keys = [key for key, holder in self.hanging.items() if holder == lease]
        if keys:
            self.revision += 1
        for key in keys:
            del self.hanging[key], self.keys[key]

    def _txn(self, txn: Txn) -> Answer:
        succeeded = all(map(self._holds, txn.conditions))
        branch = txn.then if succeeded else txn.otherwise
        for operation in branch:
            if isinstance(operation, Put) and operation.lease and not self.leases.get(operation.lease):
                return Failed("refused", "etcdserver: requested lease not found")
        writes = [one for one in branch if isinstance(one, Put)]
        writes_any = bool(writes) or any(
            self._range(one.key, one.end) for one in branch if isinstance(one, Delete)
        )
        self.revision += writes_any
        found: list[tuple[Entry, ...]] = []
        more = False
        for operation in branch:
            entries, is_more = self._operate(operation)
            found.append(entries)
            if isinstance(operation, Get):
                more = is_more
        return Done(self.cluster, self.revision, succeeded, tuple(found), more)

    def _holds(self, condition: If) -> bool:
        entry = self.keys.get(condition.key)
        actual = 0 if entry is None else getattr(entry, condition.what)
        return bool(actual == condition.revision)

    def _operate(self, one: Operation) -> tuple[tuple[Entry, ...], bool]:
        if isinstance(one, Put):
            old = self.keys.get(one.key)
            created, version = (old.created, old.version + 1) if old else (self.revision, 1)
            entry = Entry(one.key, one.value, created, self.revision, version)
            if old is None:
                self.created[one.key] = self.created.get(one.key, 0) + 1
            self.keys[one.key] = entry
            self.hanging.pop(one.key, None)
            if one.lease:
                self.hanging[one.key] = one.lease
            self.history.append(entry)
            for tell in self.told:
                tell(entry)
            return (), False
        keys = self._range(one.key, one.end)
        if isinstance(one, Delete):
            for key in keys:
                del self.keys[key]
                self.hanging.pop(key, None)
            return (), False
        entries = [self.keys[key] for key in keys]
        entries = [
            entry
            for entry in entries
            if entry.modified >= one.since and (not one.until or entry.modified <= one.until)
        ]
        if one.by_revision:
            entries.sort(key=lambda entry: entry.modified)
        if one.keys_only:
            entries = [Entry(e.key, b"", e.created, e.modified, e.version) for e in entries]
        is_more = bool(one.limit) and len(entries) > one.limit
        return tuple(entries[: one.limit] if one.limit else entries), is_more

    def _range(self, key: bytes, end: bytes) -> list[bytes]:
        if not end:
            return [key] if key in self.keys else []
        return sorted(one for one in self.keys if key <= one < end)

    def compact(self) -> None:
        """Forget the history."""
        self.compacted = self.revision
        self.history = []


class Etcd:
    """A cluster that stands beside a world, and everybody's way to it.

    loss: share of requests, and of answers, that come to nothing (half of those requests are carried
    out all the same, up to `late` seconds later). deaf: of watches that fall silent without a word.
    """

    def __init__(self, world: World, seed: int, model: Model | None = None, **bad: float) -> None:
        self.world = world
        self.model = model or Model()
        self.rng = Random(f"etcd {seed}")
        self.delay = bad.get("delay", 0.004)
        self.loss = bad.get("loss", 0.0)
        self.late = bad.get("late", 8.0)
        self.deaf = bad.get("deaf", 0.0)
        self.is_up = True
        self.cut: dict[int, None] = {}
        """Nodes that cannot reach it, by index."""
        self.asked = 0
        self._watches: dict[int, tuple[int, Watched, float]] = {}  # node -> life, watch, told up to
        self._deadlines: dict[int, float] = {}
        world.sinks.append(self._hear)
        self.model.told.append(self._written)

    def join(self, node: VirtualNode) -> None:
        """The node's link is up; again after each restart."""
        node.consensus.call(lambda machine, ctx: machine.linked(ctx))

    def _hear(self, node: VirtualNode, event: Event) -> None:
        if isinstance(event, Asked):
            self._take(node, event)
        elif isinstance(event, Watched):
            self._watch(node, event)

    def _wait(self) -> float:
        return self.delay * self.rng.uniform(0.5, 1.5)

    def _take(self, node: VirtualNode, asked: Asked) -> None:
        self.asked += 1
        life, now, rng = _life(node), self.world.now, self.rng
        if not self.is_up or node.index in self.cut:
            self._answer(node, life, asked, Failed("unsent", "http://m0: connection refused"))
            return
        if rng.random() < self.loss:
            if rng.random() < 0.5:
                self.world.at(now + rng.uniform(0.0, self.late), lambda: self._carry_out(asked.request))
            self._answer(node, life, asked, Failed("unknown", "http://m0: no answer in time"), 1.0)
            return

        def act() -> None:
            answer = self._do(asked.request)
            if answer is None or rng.random() < self.loss:
                answer = Failed("unknown", "http://m1: closed before it answered")
            self._answer(node, life, asked, answer)

        self.world.at(now + self._wait(), act)

    def _carry_out(self, request: Request) -> None:
        self._do(request)

    def _do(self, request: Request) -> Answer | None:
        if not self.is_up:
            return None
        answer = self.model.do(request)
        if isinstance(answer, Leased) and answer.ttl:
            self._deadlines[answer.lease] = self.world.now + answer.ttl
            self.world.at(self.world.now + answer.ttl + 0.001, lambda: self._expire(answer.lease))
        return answer

    def _expire(self, lease: int) -> None:
        if self.model.leases.get(lease) and self.world.now >= self._deadlines[lease]:
            self.model.end(lease)

    def _answer(
        self, node: VirtualNode, life: Any, asked: Asked, answer: Answer, after: float = 0.0
    ) -> None:
        def bring() -> None:
            if _life(node) == life and node.alive:
                node.consensus.call(lambda machine, ctx: machine.answered(ctx, asked.number, answer))

        self.world.at(self.world.now + after + self._wait(), bring)

    # Watches.

    def _watch(self, node: VirtualNode, watched: Watched) -> None:
        self._watches.pop(node.index, None)
        life = _life(node)

        def begin() -> None:
            if _life(node) != life:
                return
            if not self.is_up or node.index in self.cut:
                self._end(node, life, watched, Ended("connection refused"))
            elif watched.revision <= self.model.compacted:
                reason = f"compacted up to {self.model.compacted}"
                self._end(node, life, watched, Ended(reason, compacted=True))
            elif self.rng.random() >= self.deaf:
                self._watches[node.index] = (life, watched, 0.0)
                for entry in self.model.history:
                    if entry.modified >= watched.revision:
                        self._tell(node.index, entry)

        self.world.at(self.world.now + self._wait(), begin)

    def _written(self, entry: Entry) -> None:
        for index in list(self._watches):
            self._tell(index, entry)

    def _tell(self, index: int, entry: Entry) -> None:
        life, watched, at = self._watches[index]
        if not watched.key <= entry.key < watched.end or entry.modified < watched.revision:
            return
        node = self.world.order[index]
        when = max(self.world.now + self._wait(), at)  # never out of order
        self._watches[index] = (life, watched, when)

        def bring() -> None:
            if _life(node) == life and node.alive:
                told = Heard(self.model.cluster, (entry,))
                node.consensus.call(lambda machine, ctx: machine.heard(ctx, watched.number, told))

        self.world.at(when, bring)

    def _end(self, node: VirtualNode, life: Any, watched: Watched, over: Ended) -> None:
        def bring() -> None:
            if _life(node) == life and node.alive:
                node.consensus.call(lambda machine, ctx: machine.ended(ctx, watched.number, over))

        self.world.at(self.world.now + self._wait(), bring)

    # Bad days.

    def end_watches(self) -> None:
        """Every stream breaks, as when a member dies."""
        for index, (life, watched, _) in list(self._watches.items()):
            del self._watches[index]
            self._end(self.world.order[index], life, watched, Ended("closed"))

    def down(self, seconds: float) -> None:
        """Nobody decides for a while."""
        self.is_up = False
        self.end_watches()
        self.world.at(self.world.now + seconds, self._up)

    def _up(self) -> None:
        self.is_up = True


def _life(node: VirtualNode) -> int:
    return node.starts
