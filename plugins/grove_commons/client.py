"""The commons as an application holds them: `await node.commons.get(key)`, `async with node.claim(…)`.

The asyncio face of `machine.py` (`roles.Commons` and `roles.Claim`): an ask returns an id, its
`Answered` event carries the same id, and here the two meet as a future. Nothing else is decided here,
but one thing: a claim whose asker was cancelled meanwhile is given back.

A computer that sleeps is a holder that does not know it: its monotonic clock stands still while the
village's goes on. So `held` also compares with the clock that counts sleep, where the system has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Final

from grove_commons.events import Answered, ClaimEnded, ClaimLost, Read, TaskDone
from grove_commons.machine import Commons
from grove_commons.outcomes import (
    Accepted,
    Done,
    Granted,
    Impossible,
    Outcome,
    Refused,
    Renewed,
    Unknown,
)
from grove_commons.state import Finished, Held, Value
from grove_core.errors import Denied, GroveError, LocalProtocolError, Undecided, Unreachable
from grove_core.roles import Storage
from grove_core.service import LiveNode, Watch

EVENTS: Final = 65_536
"""Answers that may wait for the event loop."""

SLACK: Final = 5.0
"""Seconds beyond the machine's own patience until an answer is given up (its event was dropped)."""


class Shared:
    """`node.commons`. See `grove_core.roles.Commons` for the meaning of the common methods."""

    def __init__(self, node: LiveNode, handle: Storage) -> None:
        self._node = node
        self._handle = handle
        self._waiting: dict[bytes, asyncio.Future[Any]] = {}
        self._claims: dict[int, HeldClaim] = {}  # by token
        self._orphans: dict[bytes, str] = {}  # claims whose asker was cancelled: id -> task
        self._pump: asyncio.Task[None] | None = None
        self._over: GroveError | None = None

    @property
    def machine(self) -> Commons:
        """The machine itself, to look at."""
        machine: Commons = self._handle.machine
        return machine

    # The map.

    async def get(self, key: str) -> bytes | None:
        found = await self.entry(key)
        return None if found is None else found.data

    async def entry(self, key: str) -> Value | None:
        """The value of a key with its version, as of now."""
        await self.read()
        return self.machine.peek(key)

    async def put(self, key: str, value: bytes) -> int:
        return self._version(await self._ask("put", key, value))

    async def delete(self, key: str) -> None:
        self._version(await self._ask("delete", key))

    async def cas(self, key: str, expected: bytes | None, value: bytes | None) -> int:
        return self._version(await self._ask("compare_and_set", key, value, expected=expected))

    async def cas_version(self, key: str, version: int, value: bytes | None) -> int:
        """Change a key if it was last written at version (0: absent). Safe against A-B-A."""
        return self._version(await self._ask("compare_and_set", key, value, version=version))

    async def keys(self, prefix: str = "") -> tuple[str, ...]:
        await self.read()
        return self.machine.keys(prefix)

    async def read(self) -> None:
        """Wait until this node knows all that was agreed on before the call."""
        answer: Read = await self._wait("read")
        if answer.failed:
            raise Undecided(f"cannot read as of now: {answer.failed}; {_STILL}")

    # Tasks.

    def claim(self, task: str, *, lease: float = 30.0, agent: str = "", wait: float = 0.0) -> HeldClaim:
        return HeldClaim(self, task, lease, agent, wait)

    async def task(self, task: str) -> Held | Finished | None:
        """Who holds a task, or its result, as of now; None if it is free."""
        await self.read()
        return self.machine.task(task)

    async def grant(
        self, task: str, *, agent: str = "", lease: float = 30.0, keep: bool = False
    ) -> tuple[int, float]:
        """Claim a task without holding on to it: its token, and the seconds it can be counted on.

        keep: let the machine renew it. Else renew it yourself, a third of the lease is a good pace.
        """
        answer = await self._ask("claim", task, agent, lease, keep=keep)
        outcome = answer.outcome
        assert isinstance(outcome, Granted), outcome
        return outcome.token, answer.until - self._now

    async def renew(self, task: str, token: int) -> float:
        """Let a lease begin anew; the seconds it can be counted on."""
        answer = await self._ask("renew", task, token)
        assert isinstance(answer.outcome, Renewed), answer
        return answer.until - self._now

    async def release(self, task: str, token: int) -> None:
        """Give a claim back undone."""
        await self._ask("release", task, token)

    async def submit(self, task: str, token: int, result: bytes) -> None:
        """Hand in a result; asked again by itself once if no outcome came."""
        try:
            answer = await self._ask("submit", task, token, result)
        except Undecided:
            answer = await self._ask("submit", task, token, result)
        assert isinstance(answer.outcome, Accepted), answer

    # From ask to answer.

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _version(self, answer: Answered) -> int:
        assert isinstance(answer.outcome, Done), answer
        return answer.outcome.index

    async def _ask(self, name: str, *values: Any, **more: Any) -> Answered:
        """An answer that is no refusal. Raises Denied, Unreachable, Undecided, LocalProtocolError."""
        answer: Answered = await self._wait(name, *values, **more)
        self._judge(answer.outcome)
        return answer

    def _judge(self, outcome: Outcome) -> None:
        match outcome:
            case Refused():
                raise Denied(outcome.code, self.machine.explain(outcome, self._now))
            case Impossible(reason):
                raise Unreachable(f"nothing was changed: {reason}; {_STILL}")
            case Unknown(reason):
                raise Undecided(f"it may have taken effect, or may yet: {reason}; {_STILL}")

    async def _wait(self, name: str, *values: Any, **more: Any) -> Any:
        await self._listen()
        id: bytes = self._handle.call(lambda machine, ctx: getattr(machine, name)(ctx, *values, **more))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[id] = future
        try:
            async with asyncio.timeout(self.machine.config.patience + SLACK):
                return await future
        except TimeoutError:
            raise Undecided(f"{name}: no outcome reached this program") from None
        except asyncio.CancelledError:
            if name == "claim":
                self._orphans[id] = values[0]
                if future.done() and not future.cancelled() and future.exception() is None:
                    self._give_back(future.result())
            raise
        finally:
            self._waiting.pop(id, None)

    async def _listen(self) -> None:
        if self._over is not None:
            raise self._over
        if self._pump is None:
            watch = self._node.watch(Answered, Read, ClaimLost, limit=EVENTS)
            await watch.__aenter__()
            self._pump = asyncio.create_task(self._hear(watch), name="commons answers")

    async def _hear(self, watch: Watch) -> None:
        """Until the node ends, which ends everybody who waits."""
        async for event in watch:
            if isinstance(event, ClaimLost):
                claim = self._claims.pop(event.token, None)
                if claim is not None:
                    claim._lose(event.reason)
            elif isinstance(event, Answered | Read):
                future = self._waiting.pop(event.id, None)
                if future is not None and not future.done():
                    future.set_result(event)
                elif isinstance(event, Answered) and event.id in self._orphans:
                    self._give_back(event)
        self._over = LocalProtocolError("the node has stopped")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._over)
        for claim in list(self._claims.values()):
            claim._lose("stopped")

    def _give_back(self, answer: Answered) -> None:
        """A claim was granted to somebody who had gone meanwhile."""
        task = self._orphans.pop(answer.id)
        outcome = answer.outcome
        if isinstance(outcome, Granted):
            with contextlib.suppress(GroveError):
                self._handle.call(lambda machine, ctx: machine.release(ctx, task, outcome.token))


class HeldClaim:
    """`async with node.claim("task-17", lease=30) as claim`. See `grove_core.roles.Claim`."""

    def __init__(self, shared: Shared, task: str, lease: float, agent: str, wait: float) -> None:
        self.task = task
        self.lease = lease
        self.agent = agent
        self.token = 0
        self.lost = asyncio.Event()
        self.reason = ""
        """Why it was lost: silence, expired, released, replaced, asleep or stopped."""
        self._shared = shared
        self._patience = wait
        self._is_over = False
        self._slept = 0.0

    async def __aenter__(self) -> HeldClaim:
        shared = self._shared
        end = shared._now + self._patience
        async with shared._node.watch(ClaimEnded, TaskDone, limit=EVENTS) as freed:
            while not self.token:
                self._slept = _asleep()
                try:
                    self.token, _ = await shared.grant(
                        self.task, agent=self.agent, lease=self.lease, keep=True
                    )
                except Denied as error:
                    if error.code != "held" or not await self._freed(freed, end):
                        raise
        shared._claims[self.token] = self
        if self.task not in shared.machine.keeping:  # lost before we could note it
            self._lose("expired")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_over and not self.lost.is_set():
            with contextlib.suppress(GroveError):
                await self.release()
        self._shared._claims.pop(self.token, None)

    @property
    def left(self) -> float:
        kept = self._shared.machine.keeping.get(self.task)
        if kept is None or kept.token != self.token or self.lost.is_set():
            return 0.0
        return kept.until - self._shared._now - (_asleep() - self._slept)

    @property
    def held(self) -> bool:
        if not self.lost.is_set() and _asleep() - self._slept > self.lease / 3:
            self._lose("asleep")
        return not self._is_over and self.left > 0

    async def submit(self, result: bytes) -> None:
        await self._shared.submit(self.task, self.token, result)
        self._is_over = True

    async def release(self) -> None:
        self._is_over = True
        await self._shared.release(self.task, self.token)

    async def _freed(self, events: Watch, end: float) -> bool:
        """Wait until somebody's claim on the task ends; False if that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, end - self._shared._now)):
                while True:
                    event = await events.next()
                    if isinstance(event, ClaimEnded | TaskDone) and event.task == self.task:
                        return True
        return False

    def _lose(self, reason: str) -> None:
        self.reason = reason
        self.lost.set()


_STILL: Final = (
    "publishing, logs and documents go on working. See who decides, and who is reachable: grove peers"
)


def _asleep() -> float:
    """Seconds this computer has slept since it started, where the system counts them; else 0."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if boot is None else time.clock_gettime(boot) - time.monotonic()
