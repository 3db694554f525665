"""Whether a group agrees: the safety of consensus, checked in a virtual world after every step.

Ongaro, Ousterhout, figure 3.2, and the predicates of etcd's and OpenRaft's checkers; each breach is a
`Disagreement` that names the rule, the node and the seed:

    state machine safety   no two nodes hand over different commands at one index, none goes back
    committed immutable    what was once committed at an index stays
    election safety        one leader per term, one vote per term
    log matching           equal term at an index: equal logs up to it
    leader completeness    a leader's log holds what was committed in earlier terms
    electable logs         who could win an election among the living now holds all that is committed
    rivals                 no two of the living could be elected in one term by majorities of their own
    acknowledgements       a leader counts nobody as holding more of its log than it does
    reads                  a read sees at least what anyone had been told of before it was asked
    order                  offset <= snapshot <= applied <= commit <= last; nothing goes back

The first and that of reads hold for any plugin of the role, since they need only events. The others
need a machine with `snapshot_state()` in the words of Raft: see `ReplicaState`. A node is looked at when
its disk has all it saved, since nothing that depends on the rest has left it.

The rule of electable logs (what QuorumLogInv of etcd's model is there for) finds a wrong commit when it
happens, not when an unlucky election makes use of it. It compares the living as they are: from any moment
on the network may lose all that is under way, and any of them stand. MoreUpToDateCorrectInv of that
model is not asked, since runs that are right break it: who led a term in vain is more up to date
than a laggard whose shorter log a later leader has committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from grove_core.drive.virtual import SimulationError, VirtualContext, VirtualNode, World
from grove_core.errors import GroveError
from grove_core.events import (
    Committed,
    LeaderChanged,
    ReadAsked,
    ReadReady,
    Rejected,
    Restored,
)
from grove_core.machine import Event, PeerId


class Disagreement(GroveError):
    """A rule of agreement is broken."""


class LogEntry(Protocol):
    """Compares by value."""

    @property
    def term(self) -> int: ...


class Voters(Protocol):
    """A configuration: a majority of voters decides, and one of outgoing too while that is not empty."""

    @property
    def voters(self) -> tuple[PeerId, ...]: ...
    @property
    def outgoing(self) -> tuple[PeerId, ...]: ...


class ReplicaState(Protocol):
    """What a replica says of itself. entries[0] is at offset + 1; last_term is the last one's. forgot: it
    neither votes nor counts, having lost records."""

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
    def last_term(self) -> int: ...
    @property
    def entries(self) -> Sequence[LogEntry]: ...
    @property
    def members(self) -> Voters: ...
    @property
    def forgot(self) -> bool: ...
    @property
    def held(self) -> Mapping[PeerId, int]:
        """While it leads: up to which index it takes others to hold its log."""
        ...


class _Seen:
    """What was last seen of one life of a node."""

    __slots__ = (
        "applied",
        "ask",
        "asked",
        "commit",
        "end",
        "handed",
        "held",
        "life",
        "members",
        "term",
        "terms",
        "vote",
    )

    def __init__(self, node: VirtualNode, role: str) -> None:
        self.life = node.starts
        machine = node.machine(role) if node.alive else None
        self.ask: Callable[[], ReplicaState] | None = getattr(machine, "snapshot_state", None)
        self.end: tuple[int, int, int, Voters | None] = (0, 0, 0, None)
        """Last term, last index, what was known to be committed anywhere, and who decides."""
        self.held: dict[PeerId, int] = {}
        self.members: Voters | None = None
        self.asked: dict[bytes, int] = {}
        """Reads that are not answered: what had been handed over anywhere when they were asked."""
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
        self.newest = 0
        """The highest index that anybody handed over."""
        self._top = 0
        self._entries: dict[tuple[int, int], tuple[int, Any]] = {}
        self._seen: dict[VirtualNode, _Seen] = {}
        self._touched: dict[VirtualNode, None] = {}
        self._leading: dict[VirtualNode, None] = {}
        world.sinks.append(self._heard)
        world.context = _watching(self)

    def run(self, until: float) -> None:
        """Move the world, and check whoever changed after every event."""
        world, leading = self.world, self._leading
        before = world.witness
        last: Any = None

        def watch(now: float, act: Any, ctx: Any, a: Any, b: Any) -> None:
            nonlocal last
            if self._touched:
                self.check()
            if last is not None and last.node in leading:
                self._check_held(last.node)
            last = ctx
            if before is not None:
                before(now, act, ctx, a, b)

        world.witness = watch
        try:
            world.run(until)
        except SimulationError as error:
            if isinstance(error.__cause__, Disagreement):
                raise error.__cause__ from None
            raise
        finally:
            world.witness = before
        self.check()

    def run_for(self, seconds: float) -> None:
        self.run(self.world.now + seconds)

    def check(self) -> None:
        """Check the nodes that changed since the last time."""
        touched = self._touched
        ready = [node for node in touched if not _is_saving(node)]
        for node in ready:  # what others have in memory only may yet be as if it never was
            del touched[node]
            if node.alive:
                self._check(node)

    def check_all(self) -> None:
        """Check every live node."""
        self._touched = dict.fromkeys(node for node in self.world.order if node.alive)
        self.check()

    # Any plugin of the role.

    def _heard(self, node: VirtualNode, event: Event) -> None:
        self._touched[node] = None
        hear = _HEARD.get(type(event))
        if hear is not None:
            hear(self, node, event)

    def _committed(self, node: VirtualNode, event: Committed) -> None:
        seen = self._of(node)
        if event.index <= seen.handed:
            self._fail("state machine safety", node, f"handed over {event.index} after {seen.handed}")
        seen.handed = event.index
        self.newest = max(self.newest, event.index)
        known = self.committed.setdefault(event.index, event)
        if known is not event and known != event:
            self._fail(
                "state machine safety", node,
                f"handed over {event.id.hex()} at {event.index}, others {known.id.hex()}",
            )  # fmt: skip

    def _restored(self, node: VirtualNode, event: Restored) -> None:
        seen = self._of(node)
        if event.index < seen.handed:
            self._fail("state machine safety", node, f"restored {event.index} after {seen.handed}")
        seen.handed = event.index

    def _leader_changed(self, node: VirtualNode, event: LeaderChanged) -> None:
        if event.leader == node.peer and self.leaders.get(event.epoch, node.peer) != node.peer:
            self._fail("election safety", node, f"a second leader of term {event.epoch}")
        if event.leader == node.peer:
            self._leading[node] = None

    def _read_asked(self, node: VirtualNode, event: ReadAsked) -> None:
        self._of(node).asked.setdefault(event.id, self.newest)

    def _rejected(self, node: VirtualNode, event: Rejected) -> None:
        self._of(node).asked.pop(event.id, None)

    def _read_ready(self, node: VirtualNode, event: ReadReady) -> None:
        newest = self._of(node).asked.pop(event.id, 0)
        if event.index < newest:
            self._fail(
                "reads", node,
                f"may read as of {event.index}, but {newest} had been handed over when it asked",
            )  # fmt: skip

    # Machines that say how they stand.

    def _of(self, node: VirtualNode) -> _Seen:
        seen = self._seen.get(node)
        if seen is None or seen.life != node.starts:
            seen = self._seen[node] = _Seen(node, self.role)
        return seen

    def _check(self, node: VirtualNode) -> None:
        seen = self._of(node)
        if seen.ask is None:
            return
        self.checks += 1
        state = seen.ask()
        last = state.offset + len(state.entries)
        self._check_order(node, seen, state, last)
        self._match_log(node, seen, state, last)
        if state.is_leader:
            self._check_leader(node, state)
            self._leading[node] = None
        else:
            self._leading.pop(node, None)
        self._check_commit(node, seen, state)
        seen.term, seen.vote, seen.commit, seen.applied = (
            state.term,
            state.vote,
            state.commit,
            state.applied,
        )
        # What is only longer than before, in the same term, beats nobody it did not beat before.
        end, before = (state.last_term, last, self._top, state.members), seen.end
        seen.end = end
        if end[0] != before[0] or last < before[1] or self._top > before[2] or end[3] is not before[3]:
            self._compare()

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

    def _check_held(self, node: VirtualNode) -> None:
        """By who is alive: whoever follows a later leader by now may hold something else."""
        seen = self._of(node)
        state = seen.ask() if node.alive and seen.ask is not None else None
        if state is None:
            return
        if state.members is not seen.members:
            seen.members = state.members
            self._check_rivals()
        if state.held == seen.held:
            return
        before, seen.held = seen.held, dict(state.held)
        for peer, index in seen.held.items():
            if index == before.get(peer):
                continue
            other = self.world.nodes[peer]
            ask = self._of(other).ask if index > state.offset and other.alive else None
            if ask is None:
                continue
            theirs = ask()
            term = state.entries[index - state.offset - 1].term
            if theirs.forgot:
                continue  # it may have held it, and said so before
            if theirs.term < state.term or (
                theirs.term == state.term and not _holds(theirs, index, term)
            ):
                self._fail(
                    "acknowledgements", node,
                    f"counts node {other.index} as holding {index} of term {term}, which it does not",
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
            self._top = max(self._top, index)

    def _compare(self) -> None:
        """What the living hold, beside each other."""
        top = self._top
        if not top:
            return
        living = self._living()
        term = self.terms[top]
        for place, (_, _, node, state) in enumerate(living):
            if not _holds(state, top, term) and _could_win(node.peer, state.members, living, place):
                self._fail(
                    "electable logs", node,
                    f"could be elected without entry {top} of term {term}, which is committed",
                )  # fmt: skip

    def _living(self) -> list[_Standing]:
        """All that live and may vote, ascending by how far their logs reach."""
        living: list[_Standing] = []
        for node in self.world.order:
            ask = self._of(node).ask if node.alive else None
            if ask is not None:
                state = ask()
                if state.forgot:  # it neither stands nor votes
                    continue
                living.append((state.last_term, state.offset + len(state.entries), node, state))
        living.sort(key=_up_to)
        return living

    def _check_rivals(self) -> None:
        """Who decides has changed somewhere: majorities of all who could win must still have somebody
        in common. Joint configurations are left out: what is asked of them is asked of both halves."""
        living = self._living()
        able = [
            (node, state.members.voters, {other.peer for _, _, other, _ in living[: _end(living, place)]})
            for place, (_, _, node, state) in enumerate(living)
            if not state.members.outgoing and _could_win(node.peer, state.members, living, place)
        ]
        for place, (a, voters, behind) in enumerate(able):
            for b, others, beside in able[:place]:
                if voters == others:
                    continue
                mine = {peer for peer in voters if peer in behind and peer != b.peer}
                theirs = {peer for peer in others if peer in beside and peer != a.peer}
                lacking = max(0, len(voters) // 2 + 1 - len(mine - theirs))
                wanting = max(0, len(others) // 2 + 1 - len(theirs - mine))
                if lacking + wanting <= len(mine & theirs):
                    self._fail("rivals", a, f"and node {b.index} could both be elected in one term")

    def _fail(self, rule: str, node: VirtualNode, what: str) -> None:
        raise Disagreement(
            f"{rule}: node {node.index} {what}; seed {self.world.seed}, t = {self.world.now:.6f} s"
        )


_HEARD: dict[type[Event], Callable[[Agreement, VirtualNode, Any], None]] = {
    Committed: Agreement._committed,
    Restored: Agreement._restored,
    LeaderChanged: Agreement._leader_changed,
    ReadAsked: Agreement._read_asked,
    Rejected: Agreement._rejected,
    ReadReady: Agreement._read_ready,
}

_Standing = tuple[int, int, VirtualNode, ReplicaState]
"""Last term and last index, of whom, and the rest."""


def _up_to(standing: _Standing) -> tuple[int, int]:
    return standing[0], standing[1]


def _end(living: list[_Standing], place: int) -> int:
    """Where those end that are no more up to date than the one at a place."""
    end = _up_to(living[place])
    while place < len(living) and _up_to(living[place]) == end:
        place += 1
    return place


def _holds(state: ReplicaState, index: int, term: int) -> bool:
    """Whether a committed entry is in a log, or behind its snapshot."""
    place = index - state.offset - 1
    if place < 0 or index <= state.snapshot:
        return True
    return place < len(state.entries) and state.entries[place].term == term


def _could_win(me: PeerId, members: Voters, living: list[_Standing], place: int) -> bool:
    """Whether the one at a place would be elected if all who are alive were asked; living ascends."""
    if me not in members.voters and me not in members.outgoing:
        return False
    end = _up_to(living[place])
    behind = [other.peer for term, last, other, _ in living if (term, last) <= end]
    return all(
        2 * sum(1 for voter in half if voter in behind) > len(half)
        for half in (members.voters, members.outgoing)
        if half
    )


def _is_saving(node: VirtualNode) -> bool:
    for ctx in node.contexts:  # noqa: SIM110 - any() takes twice as long, and every event asks
        if ctx.held_back is not None:
            return True
    return False


def _watching(checker: Agreement) -> type[VirtualContext]:
    """A context that notes whose durable state changes."""
    plain = checker.world.context

    def save(self: Any, key: str, value: bytes | None) -> None:
        checker._touched[self.node] = None
        plain.save(self, key, value)

    return type(f"Watching{plain.__name__}", (plain,), {"__slots__": (), "save": save})
