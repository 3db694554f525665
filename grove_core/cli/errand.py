"""One task that five agents want: who gets it, who takes it over, and whose result counts.

The demo's agents are programs at the doors of five homes; the plugins `raft` and `commons` on these
homes decide. What is told is what the doors answered: tokens, refusals, and how long it took.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from grove_core.cli.village import Fault, Home, Village
from grove_core.errors import GroveError, Unreachable

TASK: Final = "bake-the-bread"
LEASE: Final = 2.0  # s that the first holder's claim lasts without a renewal
PAUSE: Final = 0.1  # s between two attempts of an agent to take over
BOUND: Final = 30.0  # s until somebody must have it


class Errand:
    """The task over the whole demo."""

    def __init__(self, village: Village) -> None:
        self.village = village
        self.holder: Home | None = None
        self.token = 0
        self.heir: Home | None = None
        self.next_token = 0
        self.refusal = ""
        self.took_over: float | None = None  # s after the kill

    async def race(self) -> Home:
        """All claim it at once; one gets it, and goes on renewing it while it lives."""
        homes = self.village.living
        answers = await asyncio.gather(*(self._claim(home, LEASE) for home in homes))
        granted = [(home, answer) for home, answer in zip(homes, answers, strict=True) if answer]
        if len(granted) != 1:
            names = ", ".join(home.name for home, _ in granted) or "nobody"
            raise Fault(f"five agents claimed {TASK} and {names} got it; it should have been one")
        ((self.holder, answer),) = granted
        self.token = answer["token"]
        self._keeping = asyncio.create_task(self._keep(self.holder))
        return self.holder

    async def take_over(self, since: float) -> None:
        """The others ask again and again until one of them has it. since: when the holder was killed."""

        async def ask(home: Home) -> tuple[Home, dict[str, Any]]:
            while True:
                answer = await self._claim(home, BOUND)
                if answer:
                    return home, answer
                await asyncio.sleep(PAUSE)

        asking = [asyncio.create_task(ask(home)) for home in self.village.living]
        try:
            first = await asyncio.wait(asking, timeout=BOUND, return_when=asyncio.FIRST_COMPLETED)
            if not first[0]:
                raise Fault(f"{TASK} was not taken over within {BOUND:g} s")
            self.heir, answer = first[0].pop().result()
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        self.took_over = time.monotonic() - since
        self.next_token = answer["token"]

    async def come_back(self, home: Home) -> None:
        """The first holder lives again, knows only its token, and hands in its result; then the heir."""
        ask = {"task": TASK, "token": self.token, "result": b"burnt"}
        try:
            await home.door.request("submit", ask)
        except GroveError as error:
            if getattr(error, "code", "") != "taken":
                raise
            self.refusal = str(error)
        else:
            raise Fault(f"the result of {home.name} was accepted with the old token {self.token}")
        assert self.heir is not None
        await self.heir.door.request(
            "submit", {"task": TASK, "token": self.next_token, "result": b"baked"}
        )

    async def end(self) -> None:
        """Nobody renews any more."""
        if self.holder is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    @property
    def observed(self) -> dict[str, Any]:
        """What was seen, for the result."""
        return {
            "holder": self.holder.name if self.holder else None,
            "token": self.token,
            "next_holder": self.heir.name if self.heir else None,
            "next_token": self.next_token,
            "taken_over_s": None if self.took_over is None else round(self.took_over, 3),
            "old_result": self.refusal or None,
        }

    async def _claim(self, home: Home, lease: float) -> dict[str, Any] | None:
        """The grant, or None if somebody else holds it, or nobody can decide for the moment."""
        try:
            return await home.door.request("claim", {"task": TASK, "lease": lease, "agent": home.name})
        except GroveError as error:
            if getattr(error, "code", "") != "held" and error.exit_code != Unreachable.exit_code:
                raise
            return None

    async def _keep(self, home: Home) -> None:
        try:
            while True:
                await asyncio.sleep(LEASE / 3)
                await home.door.request("renew", {"task": TASK, "token": self.token})
        except GroveError:
            return  # its node is dead
