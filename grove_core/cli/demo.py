"""`grove demo`: a village of real nodes meets, talks, claims, loses one, heals, takes in a newcomer.

One super-peer and four residential nodes, processes of their own on loopback (`village.py`), half of
them reachable by QUIC and half by TCP. What is drawn (`picture.py`) and what is counted is what the
nodes say at their doors. In between, five agents want one task (`errand.py`): its holder is the one
that is killed, and comes back at the end. Nothing is said that was not observed: `ok`, and exit code
0, only if every message reached everyone it should, once, the village healed and let the newcomer in,
and the late result was refused.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Final

import click

from grove_core.cli.errand import TASK, Errand
from grove_core.cli.village import Home, Village
from grove_core.errors import GroveError

RESIDENTS: Final = (("ash", "quic"), ("birch", "tcp"), ("cedar", "quic"), ("elm", "tcp"))
NEWCOMER: Final = ("fir", "quic")
LISTEN: Final = {"quic": "/ip4/127.0.0.1/udp/0/quic-v1", "tcp": "/ip4/127.0.0.1/tcp/0"}
STEPS: Final = ("start", "gather", "talk", "claim", "kill", "heal", "join", "return", "done")

HURRY: Final = ("--set", "plugins.hyparview.shuffle_interval=1")
"""Homes exchange reserves once a minute, too long to watch. All else is as the profiles say."""

DECIDE: Final = ("--set", 'roles.consensus="raft"', "--set", 'roles.storage="commons"')
"""The five that are there from the beginning agree on who does what."""

LEAST: Final = 2  # neighbours of every home in a village that is well: the loss of one leaves one
BOUND: Final = 15.0  # s that any one step may take
PULSE: Final = 0.25  # s between the messages sent while the village heals


@click.command()
@click.option("--json", "as_json", is_flag=True, help="No picture; the last line is one JSON object.")
def demo(as_json: bool) -> int:
    """Watch five real nodes meet, talk, lose one, and heal. Loopback only, about fifteen seconds."""
    from grove_core.cli.stage import Live, Plain, Silent

    if as_json:
        stage: Live | Plain | Silent = Silent()
    else:
        stage = Live() if sys.stdout.isatty() else Plain()
    result = asyncio.run(_interruptible(stage))
    stage.show_result(result)
    return 0 if result["ok"] else 1


async def _interruptible(stage: Any) -> dict[str, Any]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: with everything cleared away."""
    task = asyncio.current_task()
    assert task is not None
    for number in ("SIGTERM", "SIGHUP"):
        with suppress(AttributeError, NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(getattr(signal, number), task.cancel)
    try:
        return await Demo(stage).run()
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class Demo:
    """The script, step by step, and what was observed on the way."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.pace: float = stage.pace  # s between things a person should see one after the other
        self.observed: dict[str, Any] = {}
        self.steps: dict[str, float] = {}  # s that each took
        self._name, self._since = "", 0.0

    async def run(self) -> dict[str, Any]:
        began = time.monotonic()
        problem = ""
        async with self.stage, Village(self.stage.refresh) as village:
            self.village = village
            self.errand = Errand(village)
            self.stage.follow(village, [*STEPS])
            try:
                await self._start()
                await self._gather()
                await self._talk()
                await self._claim()
                await self._kill()
                await self._newcomer()
                await self._return()
                self._step("done")
            except GroveError as error:
                problem = str(error)
                self.stage.say(problem, "bold red")
            self._step("")
            await self.errand.end()
            self._count()
        return self._result(problem, time.monotonic() - began, village.left_in_order)

    async def _start(self) -> None:
        self._step("start")
        names = ["oak", *(name for name, _ in RESIDENTS)]
        voters = ", ".join(f'"{self.village.key_of(name)}"' for name in names)
        self.deciding = (*DECIDE, "--set", f"plugins.raft.voters=[{voters}]")
        listen = ("--listen", LISTEN["quic"], "--listen", LISTEN["tcp"])
        oak = await self._settle("oak", "super-peer", *listen, *self.deciding)
        self.stage.say("oak, the super-peer, listens for QUIC and for TCP")
        try:
            async with asyncio.TaskGroup() as starting:
                for name, kind in RESIDENTS:
                    args = ("--listen", LISTEN[kind], "--peer", self._contact(oak, kind), *self.deciding)
                    starting.create_task(self._settle(name, "residential", *args))
        except ExceptionGroup as failed:  # the others were called off
            # Not except*: what that raises may come out in a group of its own.
            faults, others = failed.split(GroveError)
            if faults is None or others is not None:
                raise
            raise faults.exceptions[0] from None

    @staticmethod
    def _contact(home: Home, kind: str) -> str:
        """The address of a home for one transport."""
        return next(addr for addr in home.addrs if f"/{kind}" in addr)

    async def _gather(self) -> None:
        self._step("gather")
        village = self.village
        await village.until(
            lambda: village.is_one(LEAST), BOUND, f"{LEAST} neighbours for everyone, all connected"
        )
        ways = village.transports()
        self.observed["transports"] = ways
        told = ", ".join(f"{count} by {kind.upper()}" for kind, count in ways.items())
        self.stage.say(f"five homes, one village: {told}", "green")
        await asyncio.sleep(self.pace)

    async def _talk(self) -> None:
        self._step("talk")
        for turn in range(3):
            for home in self.village.living:
                await self.village.publish(home, f"hello number {turn + 1} from {home.name}")
                await asyncio.sleep(self.pace / 4)
        await self._all_delivered()
        self.observed["transports"] = self.village.transports()
        self.stage.keep("The tree stands: eager links carry the messages, lazy ones stand by.")
        await asyncio.sleep(self.pace)

    async def _claim(self) -> None:
        self._step("claim")
        holder = await self.errand.race()
        self.stage.say(
            f"five agents claimed {TASK} at once: {holder.name} has it, with fence {self.errand.token}",
            "green",
        )
        await asyncio.sleep(self.pace)

    async def _kill(self) -> None:
        self._step("kill")
        village, victim = self.village, self.errand.holder
        assert victim is not None
        at = await village.kill(victim)
        taking = asyncio.create_task(self.errand.take_over(at))
        try:
            await self._heal(victim, at)
            await taking
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        heir, took = self.errand.heir, self.errand.took_over
        assert heir is not None
        assert took is not None
        self.stage.say(
            f"{heir.name} took {TASK} over, with fence {self.errand.next_token}, {took:.2f} s after",
            "green",
        )
        await asyncio.sleep(self.pace)

    async def _heal(self, victim: Home, at: float) -> None:
        village = self.village
        self.observed["killed"] = victim.name
        self.stage.say(
            f"{victim.name} is killed without warning (process {victim.process.pid})", "bold red"
        )
        self._step("heal")
        self.stage.is_quiet = True
        fresh: list[str] = []

        async def pulse() -> None:
            while True:
                home = village.living[len(fresh) % len(village.living)]
                fresh.append(await village.publish(home, f"is everybody there? {home.name} asks"))
                await asyncio.sleep(PULSE)

        pulsing = asyncio.create_task(pulse())
        try:
            await village.until(
                lambda: bool(fresh) and village.is_whole(fresh[0]), BOUND, "a message after the kill"
            )
            mended = village.messages[fresh[0]].whole_at - at
            self.stage.say(
                f"the tree mended: a new message reached everyone, {mended:.2f} s after", "green"
            )
            when = await village.until(
                lambda: village.is_one(LEAST) and village.is_whole(fresh[-1]),
                BOUND, f"{victim.name} forgotten, and {LEAST} neighbours for everyone",
            )  # fmt: skip
        finally:
            pulsing.cancel()
            await asyncio.gather(pulsing, return_exceptions=True)
        await self._all_delivered()
        self.observed["mended_s"] = round(mended, 3)
        self.observed["healed_s"] = round(when - at, 3)
        self.stage.is_quiet = False
        self.stage.healed(mended, when - at)
        self.stage.say(
            f"the overlay healed: everyone has living neighbours, {when - at:.2f} s after", "green"
        )
        self.stage.say(f"{len(fresh)} messages were sent meanwhile; none was lost")
        self.stage.keep(f"{victim.name} is gone; nobody counts on it any more.")
        await asyncio.sleep(self.pace)

    async def _newcomer(self) -> None:
        self._step("join")
        village, (name, kind) = self.village, NEWCOMER
        host = next(home for home in reversed(village.living) if home.name != "oak")
        fir = await self._settle(name, "residential", "--listen", LISTEN[kind])
        ticket = (await host.door.request("ticket"))["ticket"]
        self.stage.say(f"{host.name} gives {name} a ticket: {ticket[:14]}…{ticket[-4:]}")
        await fir.door.request("join", {"ticket": ticket})
        await village.until(lambda: village.is_one(LEAST), BOUND, f"{name} has joined")
        for home in village.living:
            await village.publish(home, f"welcome, {name}" if home is not fir else "thank you")
            await asyncio.sleep(self.pace / 4)
        await self._all_delivered()
        self.observed["joined_late"] = True
        self.stage.say(f"{name} joined by ticket, hears everyone and is heard by everyone", "green")
        self.stage.keep(f"{name} came later, by ticket.")
        await asyncio.sleep(self.pace)

    async def _return(self) -> None:
        self._step("return")
        village = self.village
        old = next(home for home in village.homes.values() if not home.is_alive)
        host = village.homes["oak"] if old.name != "oak" else village.homes[RESIDENTS[0][0]]
        kind = dict(RESIDENTS).get(old.name, dict(RESIDENTS)[host.name] if old.name == "oak" else "quic")
        self.stage.starting(old.name)
        profile = "super-peer" if old.name == "oak" else "residential"
        args = ("--listen", LISTEN[kind], "--peer", self._contact(host, kind), *self.deciding)
        again = await village.revive(old, "--profile", profile, *HURRY, *args)
        self.stage.say(f"{old.name} is back, knows nothing of it, and hands in its result")
        await self.errand.come_back(again)
        self.stage.say(self.errand.refusal, "yellow")
        await asyncio.sleep(self.pace)

    def _step(self, name: str) -> None:
        """Begin a step, and note how long the one before took."""
        now = time.monotonic()
        if self._name:
            self.steps[self._name] = round(now - self._since, 3)
        self._name, self._since = name, now
        if name:
            self.stage.step(name)

    async def _settle(self, name: str, profile: str, *args: str) -> Home:
        self.stage.starting(name)
        return await self.village.settle(name, "--profile", profile, *HURRY, *args)

    async def _all_delivered(self) -> None:
        village = self.village
        await village.until(
            lambda: village.delivered == village.expected, BOUND, "every message delivered to everyone"
        )

    def _count(self) -> None:
        village = self.village
        self.observed |= {
            "published": len(village.messages),
            "delivered": village.delivered,
            "expected": village.expected,
            "duplicates": village.duplicates,
            "claim": self.errand.observed,
        }

    def _result(self, problem: str, took: float, in_order: bool) -> dict[str, Any]:
        """ok is computed from what was seen, and from nothing else."""
        seen = self.observed
        ways = seen.get("transports", {})
        claim = seen.get("claim", {})
        ok = (
            not problem
            and seen["published"] > 0
            and seen["delivered"] == seen["expected"]
            and seen["duplicates"] == 0
            and "killed" in seen
            and seen.get("healed_s") is not None
            and seen.get("joined_late", False)
            and {"quic", "tcp"} <= ways.keys()
            and 0 < claim.get("token", 0) < claim.get("next_token", 0)
            and claim.get("old_result") is not None
        )
        return {
            "ok": ok,
            "nodes": 1 + len(RESIDENTS),
            "published": seen["published"],
            "delivered": seen["delivered"],
            "expected": seen["expected"],
            "duplicates": seen["duplicates"],
            "killed": 1 if "killed" in seen else 0,
            "killed_node": seen.get("killed"),
            "mended_s": seen.get("mended_s"),
            "healed_s": seen.get("healed_s"),
            "joined_late": seen.get("joined_late", False),
            "transports": ways,
            "claim": claim,
            "ended_in_order": in_order,
            "steps_s": self.steps,
            "took_s": round(took, 2),
            "problem": problem or None,
        }
