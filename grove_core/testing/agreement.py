"""Whether a group agrees: the safety of consensus, checked in a virtual world after every step.

Ongaro, Ousterhout, figure 3.2, and the predicates of etcd's and OpenRaft's checkers; each breach is a
`Disagreement` that names the rule, the node and the seed:

    state machine safety   no two nodes hand over different commands at one index, none goes back
    committed immutable    what was once committed at an index stays
    election safety        one leader per term, one vote per term
    log matching           equal term at an index: equal logs up to it
    leader completeness    a leader's log holds what was committed in earlier terms
    order                  offset <= snapshot <= applied <= commit <= last; nothing goes back

The first holds for any plugin of the role, since it needs only events. The others need a machine with
`snapshot_state()` in the words of Raft: see `ReplicaState`. A node is looked at when its disk has all it
saved, since nothing that depends on the rest has left it; and a leader's own commit index is not
believed before others repeat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from grove_core.drive.virtual import VirtualContext, VirtualNode, World
from grove_core.errors import GroveError
from grove_core.events import Committed, LeaderChanged, Restored
from grove_core.machine import Event, PeerId


class Disagreement(GroveError):
    """A rule of agreement is broken."""


class LogEntry(Protocol):
    """Compares by value."""

    @property
    def term(self) -> int: ...


class ReplicaState(Protocol):
    """What a replica says of itself. entries[0] is at offset + 1."""

    @property
    def term(self) -> int: ...
    @property
    def vote(self) -> PeerId | None: ...
    @property
    def is_leader(self) -> bool: ...
    @property
    def commit(self) -> int: ...
    @property
    def applied(self) -> int: ...
    @property
    def snapshot(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def entries(self) -> Sequence[LogEntry]: ...


class _Seen:
    """What was last seen of one life of a node."""

    __slots__ = ("applied", "commit", "handed", "life", "term", "terms", "vote")

    def __init__(self, life: int) -> None:
        self.life = life
        self.term = 0
        self.vote: PeerId | None = None
        self.commit = 0
        self.applied = 0
        self.handed = 0
        self.terms: dict[int, int] = {}
        """Index -> term of entries that were matched with everybody's."""


class Agreement:
    """Watches the nodes of a world that have a machine of a role. Make it before the nodes start."""

    def __init__(self, world: World, role: str = "consensus") -> None:
        self.world = world
        self.role = role
        self.committed: dict[int, Committed] = {}
        """What the nodes handed over, by index."""
        self.terms: dict[int, int] = {}
        """Index -> term of what is known to be committed."""
        self.leaders: dict[int, PeerId] = {}
        """Term -> its leader."""
        self.checks = 0
        self._entries: dict[tuple[int, int], tuple[int, Any]] = {}
        self._seen: dict[VirtualNode, _Seen] = {}
        self._touched: dict[VirtualNode, None] = {}
        world.sinks.append(self._heard)
        world.context = _watching(self)

    def run(self, until: float, every: int = 1) -> None:
        """Move the world, and check whoever changed after so many events."""
        world = self.world
        while world.now < until:
            world.run(until, events=every)
            if self._touched:
                self.check()

    def run_for(self, seconds: float, every: int = 1) -> None:
        self.run(self.world.now + seconds, every)

    def check(self) -> None:
        """Check the nodes that changed since the last time."""
        touched, self._touched = self._touched, {}
        for node in touched:
            if not node.alive:
                continue
            if _is_saving(node):
                self._touched[node] = None  # what is in its memory only may yet be as if it never was
            else:
                self._check(node)

    def check_all(self) -> None:
        """Check every live node."""
        self._touched = dict.fromkeys(node for node in self.world.order if node.alive)
        self.check()

    # Any plugin of the role.

    def _heard(self, node: VirtualNode, event: Event) -> None:
        self._touched[node] = None
        if isinstance(event, LeaderChanged):
            if event.leader == node.peer and self.leaders.get(event.epoch, node.peer) != node.peer:
                self._fail("election safety", node, f"a second leader of term {event.epoch}")
        elif isinstance(event, Restored):
            seen = self._of(node)
            if event.index < seen.handed:
                self._fail("state machine safety", node, f"restored {event.index} after {seen.handed}")
            seen.handed = event.index
        elif isinstance(event, Committed):
            seen = self._of(node)
            if event.index <= seen.handed:
                self._fail("state machine safety", node, f"handed over {event.index} after {seen.handed}")
            seen.handed = event.index
            known = self.committed.setdefault(event.index, event)
            if known is not event and known != event:
                self._fail(
                    "state machine safety", node,
                    f"handed over {event.id.hex()} at {event.index}, others {known.id.hex()}",
                )  # fmt: skip

    # Machines that say how they stand.

    def _of(self, node: VirtualNode) -> _Seen:
        seen = self._seen.get(node)
        if seen is None or seen.life != node.starts:
            seen = self._seen[node] = _Seen(node.starts)
        return seen

    def _check(self, node: VirtualNode) -> None:
        ask = getattr(node.machine(self.role), "snapshot_state", None)
        if ask is None:
            return
        self.checks += 1
        state: ReplicaState = ask()
        seen = self._of(node)
        last = state.offset + len(state.entries)
        self._check_order(node, seen, state, last)
        self._match_log(node, seen, state, last)
        if state.is_leader:
            self._check_leader(node, state)
        else:
            self._check_commit(node, seen, state)
        seen.term, seen.vote, seen.commit, seen.applied = (
            state.term,
            state.vote,
            state.commit,
            state.applied,
        )

    def _check_order(self, node: VirtualNode, seen: _Seen, state: ReplicaState, last: int) -> None:
        if state.term < seen.term or state.commit < seen.commit or state.applied < seen.applied:
            self._fail(
                "order", node,
                f"went back from term {seen.term}, commit {seen.commit}, applied {seen.applied} "
                f"to {state.term}, {state.commit}, {state.applied}",
            )  # fmt: skip
        if state.term == seen.term and seen.vote is not None and state.vote != seen.vote:
            self._fail("election safety", node, f"voted twice in term {state.term}")
        if not state.offset <= state.snapshot <= state.applied <= state.commit <= last:
            self._fail(
                "order", node,
                f"offset {state.offset} <= snapshot {state.snapshot} <= applied {state.applied} <= "
                f"commit {state.commit} <= last {last} does not hold",
            )  # fmt: skip

    def _match_log(self, node: VirtualNode, seen: _Seen, state: ReplicaState, last: int) -> None:
        """Log matching by induction: one content, and one predecessor, for each (index, term)."""
        terms, entries, offset = seen.terms, state.entries, state.offset
        index = last
        while index > offset and terms.get(index) != entries[index - offset - 1].term:
            entry = entries[index - offset - 1]
            before = entries[index - offset - 2].term if index - offset >= 2 else None
            known = self._entries.get((index, entry.term))
            if known is None:
                self._entries[index, entry.term] = (-1 if before is None else before, entry)
            else:
                if known[1] is not entry and known[1] != entry:
                    self._fail("log matching", node, f"another entry at {index} of term {entry.term}")
                if before is not None and known[0] not in (-1, before):
                    self._fail("log matching", node, f"another predecessor of {index}, term {entry.term}")
            terms[index] = entry.term
            index -= 1

    def _check_leader(self, node: VirtualNode, state: ReplicaState) -> None:
        known = self.leaders.get(state.term)
        if known == node.peer:
            return
        if known is not None:
            self._fail("election safety", node, f"a second leader of term {state.term}")
        self.leaders[state.term] = node.peer
        offset, held = state.offset, len(state.entries)
        for index, term in self.terms.items():
            place = index - offset - 1
            if (
                index > offset
                and term < state.term
                and (place >= held or state.entries[place].term != term)
            ):
                self._fail(
                    "leader completeness", node,
                    f"leads term {state.term} without entry {index} of term {term}, which was committed",
                )  # fmt: skip

    def _check_commit(self, node: VirtualNode, seen: _Seen, state: ReplicaState) -> None:
        for index in range(max(seen.commit, state.offset) + 1, state.commit + 1):
            term = state.entries[index - state.offset - 1].term
            known = self.terms.setdefault(index, term)
            if known != term:
                self._fail(
                    "committed immutable", node,
                    f"entry {index} is committed as of term {term}, elsewhere of term {known}",
                )  # fmt: skip

    def _fail(self, rule: str, node: VirtualNode, what: str) -> None:
        raise Disagreement(
            f"{rule}: node {node.index} {what}; seed {self.world.seed}, t = {self.world.now:.6f} s"
        )


def _is_saving(node: VirtualNode) -> bool:
    return any(ctx._held is not None for ctx in node.contexts)


def _watching(checker: Agreement) -> type[VirtualContext]:
    """A context that notes whose durable state changes."""
    plain = checker.world.context

    def save(self: Any, key: str, value: bytes | None) -> None:
        checker._touched[self.node] = None
        plain.save(self, key, value)

    return type(f"Watching{plain.__name__}", (plain,), {"__slots__": (), "save": save})
