"""A village of real nodes on this machine, each a process of its own, for `grove demo`.

Every home is `grove up --json` with a data folder of its own below one temporary folder, on loopback
and free ports, deaf to the user's own configuration. What the homes are and do is seen through their
local doors, as any program would see it; nothing here looks inside a node.

Invariants:
1. Whatever happens, `Village.__aexit__` leaves no process and no file behind.
2. A message is expected at every home that listened when it was published, except its author and
   homes killed since. It is delivered there once, or it is a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

import msgspec

from grove_core.cli.door import Door, open_door
from grove_core.errors import GroveError
from grove_core.identity import Identity, peer_text

TOPIC: Final = "village"
START: Final = 20.0  # s until a process must be listening
END: Final = 3.0  # s that a process has to end in order
GLANCE: Final = 0.25  # s between looks at a home where nothing was heard
EVENTS: Final = ("neighbor_up", "neighbor_down", "connected", "disconnected")


class Fault(GroveError):
    """The village did not do what it should; the text says which home, what, and how long we waited."""


class Home:
    """One node's process, and what its door says."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.peer = ""
        self.addrs: list[str] = []
        self.rows: list[dict[str, Any]] = []  # the newest answer to `peers`
        self.process: asyncio.subprocess.Process
        self.door: Door
        self.is_alive = False
        self._stay = contextlib.AsyncExitStack()
        self._glance = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def neighbors(self) -> frozenset[str]:
        """Peer ids that membership counts on."""
        return frozenset(row["peer"] for row in self.rows if row["neighbor"])

    async def start(self, config: Path, *args: str) -> None:
        """Run the process; returns when it listens. Raises Fault with the process's own words."""
        command = [sys.executable, "-m", "grove_core.cli", "up", "--json", "--config", str(config)]
        env = {key: value for key, value in os.environ.items() if not key.startswith("GROVE_")}
        with open(self.folder.with_suffix(".err"), "wb") as errors:
            self.process = await asyncio.create_subprocess_exec(
                *command, "--data", str(self.folder), *args,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=errors, env=env,
            )  # fmt: skip
        self.is_alive = True
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(START):
                line = await self.process.stdout.readline()
            told = msgspec.json.decode(line)
            self.peer, self.addrs = told["peer_id"], told["addrs"]
        except (TimeoutError, msgspec.DecodeError, KeyError, TypeError):
            raise Fault(f"{self.name} did not start: {self._last_words()}") from None
        self._tasks.append(asyncio.create_task(self._drain(self.process.stdout)))

    async def knock(self) -> None:
        """Open its door, and no more."""
        self.door = await self._stay.enter_async_context(open_door(self.folder))

    async def watch(
        self, heard: Callable[[Home, dict[str, Any]], None], seen: Callable[[], None]
    ) -> None:
        """Open its door and follow it. heard: each message delivered here. seen: `rows` are new."""
        await self.knock()
        events = await self._stay.enter_async_context(self.door.subscribe(TOPIC, events=EVENTS))

        async def listen() -> None:
            while True:
                event = await events.next()
                if event["event"] == "delivered":
                    heard(self, event)
                else:
                    self._glance.set()

        async def look() -> None:
            while True:
                self._glance.clear()
                self.rows = (await self.door.request("peers"))["peers"]
                seen()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GLANCE):
                        await self._glance.wait()

        self._tasks += [asyncio.create_task(_while_it_lives(task)) for task in (listen(), look())]

    async def kill(self) -> None:
        """SIGKILL: no goodbye, nothing saved, sockets left to the kernel."""
        self.is_alive = False
        self.process.kill()
        await self.process.wait()
        self.rows = []

    async def stop(self) -> bool:
        """Ask it to end, wait, and insist. True if it ended in order."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(GroveError, TimeoutError):
            async with asyncio.timeout(END):
                await self._stay.aclose()
        if not hasattr(self, "process"):
            return True
        killed, self.is_alive = not self.is_alive, False
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(END):
                code = await self.process.wait()
        except TimeoutError:
            self.process.kill()
            code = await self.process.wait()
        return killed or code == 0

    async def _drain(self, lines: asyncio.StreamReader) -> None:
        """A pipe nobody reads would fill; what is in it we have from the door."""
        while await lines.read(65536):
            pass

    def _last_words(self) -> str:
        try:
            text = self.folder.with_suffix(".err").read_text(errors="replace").strip()
        except OSError:
            text = ""
        return text[-1000:] or f"no line within {START:g} s"


class Message:
    """One published message: who should hear it and who has."""

    def __init__(self, author: str, audience: set[str]) -> None:
        self.author = author
        self.audience = audience
        self.at = time.monotonic()
        self.took: float | None = None  # s until everybody had it

    @property
    def whole_at(self) -> float:
        """The moment everybody had it, on the monotonic clock."""
        assert self.took is not None
        return self.at + self.took


class Village:
    """The homes, the messages between them, and the clock they are measured by."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.homes: dict[str, Home] = {}
        self.messages: dict[str, Message] = {}
        self.reached: dict[str, set[str]] = {}  # message id -> homes it was delivered at
        self.duplicates = 0
        self.left_in_order = True
        self.on_whole: Callable[[Message], None] = lambda message: None
        self.on_heard: Callable[[Home], None] = lambda home: None
        self._changed = changed
        self._news = asyncio.Event()
        self._folder = Path()

    async def __aenter__(self) -> Village:
        self._folder = Path(tempfile.mkdtemp(prefix="grove-demo-"))
        (self._folder / "empty.toml").touch()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            ended = await asyncio.gather(*(home.stop() for home in self.homes.values()))
            self.left_in_order = all(ended)
        finally:
            for home in self.homes.values():  # were we interrupted while waiting for them
                if hasattr(home, "process") and home.process.returncode is None:
                    home.process.kill()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def settle(self, name: str, *args: str) -> Home:
        """Start one more home and follow it."""
        folder = self._folder / name
        home = self.homes[name] = Home(name, folder)
        await home.start(self._folder / "empty.toml", *args)
        await home.watch(self._heard, self._tell)
        return home

    async def revive(self, home: Home, *args: str) -> Home:
        """A killed home's next life, with its key and records. Its door is open; it is not followed."""
        await home.stop()
        again = self.homes[home.name] = Home(home.name, home.folder)
        await again.start(self._folder / "empty.toml", *args)
        await again.knock()
        return again

    def key_of(self, name: str) -> str:
        """The peer id that a home will have: its key is made before it starts."""
        folder = self._folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return peer_text(Identity.load_or_create(folder / "identity.key").peer)

    @property
    def living(self) -> list[Home]:
        return [home for home in self.homes.values() if home.is_alive]

    @property
    def names(self) -> dict[str, str]:
        """Peer id -> name of the home."""
        return {home.peer: home.name for home in self.homes.values()}

    async def publish(self, home: Home, text: str) -> str:
        """Publish on the village's topic; the message's id."""
        message = Message(home.name, {other.name for other in self.living if other is not home})
        answer = await home.door.request("publish", {"topic": TOPIC, "data": text.encode()})
        message_id = str(answer["id"])
        self.messages[message_id] = message
        self._whole(message_id)
        self._tell()
        return message_id

    async def kill(self, home: Home) -> float:
        """End a process without warning; the moment it was done, on the monotonic clock."""
        at = time.monotonic()
        await home.kill()
        for message_id, message in self.messages.items():
            if home.name not in self.reached.get(message_id, ()):
                message.audience.discard(home.name)
        self._tell()
        return at

    async def until(self, true: Callable[[], bool], bound: float, what: str) -> float:
        """Wait for something to be so; the moment it was. Raises Fault after bound seconds."""
        try:
            async with asyncio.timeout(bound):
                while not true():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Fault(f"{what}: not so within {bound:g} s ({self._views()})") from None
        return time.monotonic()

    @property
    def expected(self) -> int:
        return sum(len(message.audience) for message in self.messages.values())

    @property
    def delivered(self) -> int:
        return sum(
            len(message.audience & self.reached.get(message_id, set()))
            for message_id, message in self.messages.items()
        )

    def is_whole(self, message_id: str) -> bool:
        """Whether a message has reached everyone it should."""
        return self.messages[message_id].audience <= self.reached.get(message_id, set())

    def is_one(self, least: int) -> bool:
        """Every living home has at least `least` neighbours, all of them alive, and all hang together."""
        living = {home.peer: home.neighbors for home in self.living}
        if any(len(near) < least or not near <= living.keys() for near in living.values()):
            return False
        found: set[str] = set()
        open_ends = [next(iter(living))]
        while open_ends:
            peer = open_ends.pop()
            if peer not in found:
                found.add(peer)
                open_ends += living[peer]
        return found == living.keys()

    def transports(self) -> dict[str, int]:
        """Connected pairs of homes by transport."""
        pairs = {
            (min(home.peer, row["peer"]), max(home.peer, row["peer"])): row["transport"]
            for home in self.living
            for row in home.rows
        }
        counted = cast(list[str], sorted(pairs.values()))
        return {transport: counted.count(transport) for transport in dict.fromkeys(counted)}

    def _views(self) -> str:
        """Who counts on whom, in a line: what a person needs who wonders why."""
        names = self.names
        views = {
            home.name: sorted(names.get(peer, peer) for peer in home.neighbors) for home in self.living
        }
        return "; ".join(f"{name}: {' '.join(near) or 'nobody'}" for name, near in views.items())

    def _heard(self, home: Home, event: dict[str, Any]) -> None:
        reached = self.reached.setdefault(event["id"], set())
        if home.name in reached:
            self.duplicates += 1
        reached.add(home.name)
        self.on_heard(home)
        self._whole(event["id"])
        self._tell()

    def _whole(self, message_id: str) -> None:
        message = self.messages.get(message_id)
        if message is not None and message.took is None and self.is_whole(message_id):
            message.took = time.monotonic() - message.at
            self.on_whole(message)

    def _tell(self) -> None:
        self._news.set()
        self._changed()


async def _while_it_lives(task: Any) -> None:
    """A killed node's door ends what follows it; that is no error here."""
    with contextlib.suppress(GroveError):
        await task
