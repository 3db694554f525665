"""Agents that want tasks done, in virtual time: each claims, works, pauses too long, and submits.

The agents are as careless as agents can be: they never look whether they still hold what they
claimed, they submit after pauses of three leases, and ask again when an outcome is unknown. What
keeps the results right must be the commons. The judge hears every commit and every event.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from grove_commons.events import Answered, ClaimEnded, ClaimGranted, ClaimLost, ResultRefused, TaskDone
from grove_commons.machine import Commons
from grove_commons.outcomes import Accepted, Granted, Refused
from grove_commons.state import State

from grove_core.drive.virtual import VirtualNode, World
from grove_core.errors import LocalProtocolError
from grove_core.events import Committed, SnapshotTaken
from grove_core.machine import Event, PeerId


class Judge:
    """Applies what is committed once more, by itself, and holds every node to it."""

    def __init__(self) -> None:
        self.commits: dict[int, Committed] = {}
        self.state = State()
        self.done: dict[str, TaskDone] = {}
        self.refused: dict[tuple[str, PeerId, int], None] = {}
        self.tokens: dict[str, int] = {}
        self.live: dict[str, tuple[PeerId, int]] = {}
        self.snapshots: dict[int, bytes] = {}
        self.ended = 0

    def hear(self, node: VirtualNode, event: Event) -> None:
        if isinstance(event, Committed):
            known = self.commits.setdefault(event.index, event)
            assert known == event, f"two commits at index {event.index}"
            if event.index > self.state.index:
                applied = self.state.apply(event.index, event.id, event.proposer, event.command)
                self.state.check()
                for news in applied.news:
                    self.take(news)
        elif isinstance(event, SnapshotTaken):
            known_state = self.snapshots.setdefault(event.index, event.state)
            assert known_state == event.state, f"members differ at index {event.index}"

    def take(self, news: Event) -> None:
        match news:
            case ClaimGranted(task, holder, _, token):
                assert task not in self.live, f"{task} has two holders"
                assert task not in self.done, f"{task} is done and claimed again"
                assert token > self.tokens.get(task, 0), f"the token of {task} did not rise"
                self.tokens[task], self.live[task] = token, (holder, token)
            case ClaimEnded(task, holder, _, token):
                assert self.live.pop(task) == (holder, token)
                self.ended += 1
            case TaskDone(task, holder, _, token):
                assert self.live.pop(task) == (holder, token), f"{task}: accepted with an old token"
                self.done[task] = news
            case ResultRefused(task, sender, token):
                self.refused[task, sender, token] = None


class Agent:
    """Works through the tasks on one node, whatever life that is in. Times are seconds."""

    def __init__(
        self,
        village: Village,
        node: VirtualNode,
        name: str,
        rng: Random,
        lease: float,
        *,
        work: float,
        pause: float,
    ) -> None:
        self.village, self.node, self.name, self.rng = village, node, name, rng
        self.lease, self.work, self.pause = lease, work, pause
        self.waits: dict[bytes, Callable[[Any], None]] = {}
        self.believed: tuple[str, int, float] | None = None

    def begin(self) -> None:
        """A life begins: nothing is remembered."""
        self.waits.clear()
        self.believed = None
        self.soon(self.rng.uniform(0, 1), self.choose)

    def soon(self, delay: float, act: Callable[[], None]) -> None:
        life = self.node.starts

        def later() -> None:
            if self.node.alive and self.node.starts == life:
                act()

        self.village.world.at(self.village.world.now + delay, later)

    def ask(self, name: str, *values: Any, then: Callable[[Any], None], **more: Any) -> None:
        handle = self.node.plugin("commons")
        try:
            id = handle.call(lambda machine, ctx: getattr(machine, name)(ctx, *values, **more))
        except LocalProtocolError:
            self.soon(1.0, self.choose)
            return
        self.waits[id] = then

    def hear(self, event: Event) -> None:
        if isinstance(event, Answered) and event.id in self.waits:
            self.waits.pop(event.id)(event)
        elif isinstance(event, ClaimLost) and event.agent == self.name:
            self.village.lost += 1

    def choose(self) -> None:
        machine: Commons = self.node.machine("commons")
        left = [task for task in self.village.tasks if task not in machine.state.done]
        if not left:
            self.soon(2.0, self.look_again)
            return
        task = self.rng.choice(left[:40])
        self.ask("claim", task, self.name, self.lease, then=lambda answer: self.claimed(task, answer))

    def look_again(self) -> None:
        if len(self.village.judge.done) < len(self.village.tasks):
            self.choose()

    def claimed(self, task: str, answer: Answered) -> None:
        if not isinstance(answer.outcome, Granted):
            self.soon(self.rng.uniform(0.1, 1.0), self.choose)
            return
        token = answer.outcome.token
        self.village.started += 1
        long = self.rng.random() < self.pause
        if long:  # a pause: nobody renews, as in a process that is stopped
            self.stop_keeping(task)
        worked = self.rng.uniform(0, 3 * self.lease) if long else self.rng.expovariate(1 / self.work)
        self.soon(worked, lambda: self.submit(task, token))

    def stop_keeping(self, task: str) -> None:
        def forget(machine: Any, ctx: Any) -> None:
            if task in machine.keeping:
                machine._let_go(ctx, task)

        self.node.plugin("commons").call(forget)

    def submit(self, task: str, token: int) -> None:
        def handed_in(answer: Answered) -> None:
            outcome = answer.outcome
            if isinstance(outcome, Accepted):
                self.village.accepted.setdefault(task, []).append((self.node.peer, token))
                assert self.village.judge.done[task].token == token
            elif isinstance(outcome, Refused):
                self.village.duplicates += 1
            else:
                self.submit(task, token)  # unknown: ask again
                return
            self.soon(0.0, self.choose)

        result = b"%s %d" % (self.name.encode(), token)
        self.ask("submit", task, token, result, then=handed_in)


class Village:
    """Nodes, agents on them, tasks, and a judge."""

    def __init__(
        self,
        world: World,
        nodes: list[VirtualNode],
        tasks: int,
        *,
        seed: int,
        lease: float = 5.0,
        work: float = 0.3,
        pause: float = 0.1,
        per_node: int = 1,
    ) -> None:
        self.world, self.nodes = world, nodes
        self.tasks = [f"task-{number}" for number in range(tasks)]
        self.judge = Judge()
        self.accepted: dict[str, list[tuple[PeerId, int]]] = {}
        self.started = self.duplicates = self.lost = 0
        rng = Random(f"agents {seed}")
        self.agents = {
            node.peer: [
                Agent(self, node, f"agent-{node.index}-{number}", Random(rng.random()), lease,
                      work=work, pause=pause)
                for number in range(per_node)
            ]
            for node in nodes
        }  # fmt: skip
        world.sinks.append(self.hear)

    def hear(self, node: VirtualNode, event: Event) -> None:
        self.judge.hear(node, event)
        for agent in self.agents.get(node.peer, ()):
            agent.hear(event)

    def begin(self, at: float = 0.7) -> None:
        """Let all agents begin; their nodes must have started by then."""
        for node in self.nodes:
            self.world.at(at, lambda node=node: self.rebegin(node))  # type: ignore[misc]

    def rebegin(self, node: VirtualNode) -> None:
        """The agents of a node that lives (again) begin, remembering nothing."""
        if node.alive:
            for agent in self.agents[node.peer]:
                agent.begin()

    def run_until_done(self, limit: float) -> float:
        """Until every task is done, or limit (virtual seconds); returns the time."""
        while len(self.judge.done) < len(self.tasks) and self.world.now < limit:
            self.world.run_for(1.0)
        return self.world.now

    def verdict(self) -> None:
        """What must hold at the end, whatever happened."""
        assert set(self.judge.done) == set(self.tasks), "every task finishes"
        for task, accepted in self.accepted.items():
            assert len(set(accepted)) == 1, f"{task} was accepted of two holders: {accepted}"
            done = self.judge.done[task]
            assert accepted[0] == (done.holder, done.token)
