"""A js-libp2p node as a child process, and the commands it obeys (js/peer.mjs).

`installed()` finds a Node runtime and js-libp2p, fetching both with `npm ci` the first time. `JsPeer` is
one running program: `await peer.do("ping", peer=…, count=100)` sends a command and waits, within a bound,
for its answer; `await peer.event("connected", peer=…)` waits for something that happened there.

Invariants:
1. Every wait has a bound; one that runs out says what was awaited and what was heard instead.
2. A peer outlives the event loop it was used from: one process serves many tests, each with its own loop.
3. Nothing is installed twice at once (file lock), and nothing but what the lock file pins.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

FOLDER = Path(__file__).parent / "js"
NODE_MAJOR = 22  # @chainsafe/libp2p-quic 2.1.1 needs it (libp2p-wire.md 4.3)
INSTALL_TIMEOUT = 300.0  # s; about 230 MB come over the network
START_TIMEOUT = 30.0  # s
ANSWER_TIMEOUT = 20.0  # s
EVENTS_KEPT = 4096


class Missing(Exception):
    """This machine cannot run js-libp2p; says what is missing."""


class JsError(Exception):
    """A command failed inside the js program; `name` is the JavaScript error's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


def installed() -> Path:
    """A Node runtime beside an installed js-libp2p. Raises Missing, with the reason."""
    with (FOLDER / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _as_locked():
            _npm_ci()
    return _node()


def _as_locked() -> bool:
    """Whether node_modules holds what package-lock.json says. npm writes its own list when it is done."""
    try:
        have = json.loads((FOLDER / "node_modules" / ".package-lock.json").read_text())["packages"]
    except (OSError, ValueError, KeyError):
        return False
    want = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    return all(want.get(name, {}).get("version") == package["version"] for name, package in have.items())


def _npm_ci() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("js-libp2p is not installed and there is no npm to fetch it")
    try:
        done = subprocess.run(
            [npm, "ci", "--no-progress"],
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"npm ci did not finish in {INSTALL_TIMEOUT:.0f} s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise Missing(f"npm ci failed: {'; '.join(said[:3])}")


def _node() -> Path:
    own = FOLDER / "node_modules" / "node" / "bin" / "node"
    if own.exists():
        return own
    found = shutil.which("node")
    if found is None:
        raise Missing("there is no node; the npm package `node` brought none for this machine")
    version = subprocess.run(
        [found, "--version"], capture_output=True, text=True, timeout=20
    ).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < NODE_MAJOR:
        raise Missing(f"node {version} is too old; js-libp2p with QUIC needs {NODE_MAJOR}")
    return Path(found)


class JsPeer:
    """A running js-libp2p node."""

    program: ClassVar[str] = "peer.mjs"

    def __init__(self, **options: Any) -> None:
        """Start one and wait until it listens. options: see js/peer.mjs, or what `program` names."""
        self._process = subprocess.Popen(
            [installed(), "--expose-gc", self.program, json.dumps(options)],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._lock = threading.Lock()
        self._number = 0
        self._answers: dict[int, Future[Any]] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._waiting: list[tuple[Callable[[dict[str, Any]], bool], Future[dict[str, Any]]]] = []
        self._complaints: deque[str] = deque(maxlen=40)
        self._threads = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._overhear, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        try:
            self.first = first = self._expect("listening").result(START_TIMEOUT)
        except BaseException:
            self.close()
            raise
        self.peer: str = first["peer"]
        self.versions: dict[str, str] = first["versions"]
        self._addrs: list[str] = first["addrs"]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def addr(self, transport: str) -> str:
        """Where it listens, /p2p included. transport: "tcp" or "quic"."""
        part = "/quic-v1" if transport == "quic" else "/tcp/"
        return next(addr for addr in self._addrs if part in addr)

    async def do(self, verb: str, *, timeout: float = ANSWER_TIMEOUT, **given: Any) -> Any:
        """Obey a command; its answer. Raises JsError if it failed there, TimeoutError after timeout s."""
        return await self._await(self._send(verb, given), f"the answer to {verb}", timeout)

    def do_now(self, verb: str, *, timeout: float = ANSWER_TIMEOUT, **given: Any) -> Any:
        """`do` without an event loop."""
        return self._send(verb, given).result(timeout)

    async def event(self, kind: str, *, timeout: float = ANSWER_TIMEOUT, **like: Any) -> dict[str, Any]:
        """The oldest event of a kind with these values that nobody has taken yet, waiting if need be."""
        found: dict[str, Any] = await self._await(
            self._expect(kind, like), f"event {kind} {like}", timeout
        )
        return found

    def forget(self) -> None:
        """Drop events that nobody has asked for."""
        with self._lock:
            self._events.clear()

    def close(self) -> None:
        """End the program: asked first, killed after 5 s. Idempotent."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()  # end of input is the order to stop
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        for thread in self._threads:
            thread.join(5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def _send(self, verb: str, given: dict[str, Any]) -> Future[Any]:
        answer: Future[Any] = Future()
        with self._lock:
            self._number += 1
            self._answers[self._number] = answer
            line = json.dumps({"id": self._number, "do": verb, **given})
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        return answer

    def _expect(self, kind: str, like: dict[str, Any] | None = None) -> Future[dict[str, Any]]:
        def fits(event: dict[str, Any]) -> bool:
            wanted = {"event": kind, **(like or {})}
            return all(event.get(key) == value for key, value in wanted.items())

        found: Future[dict[str, Any]] = Future()
        with self._lock:
            for event in self._events:
                if fits(event):
                    self._events.remove(event)
                    found.set_result(event)
                    return found
            self._waiting.append((fits, found))
        return found

    async def _await(self, future: Future[Any], what: str, timeout: float) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise TimeoutError(f"js: no {what} in {timeout:g} s; {self._heard()}") from None

    def _heard(self) -> str:
        state = "running" if self.alive else f"ended with {self._process.returncode}"
        return (
            f"the program is {state}; last events {list(self._events)[-5:]}; {' '.join(self._complaints)}"
        )

    def _listen(self) -> None:
        assert self._process.stdout
        for text in self._process.stdout:
            line = json.loads(text)
            with self._lock:
                if "id" in line:
                    self._answer(line)
                else:
                    self._happened(line)
        with self._lock:
            gone = ConnectionError(f"the js program is gone: {' '.join(self._complaints)}")
            for future in [*self._answers.values(), *(future for _, future in self._waiting)]:
                if not future.done():
                    future.set_exception(gone)

    def _answer(self, line: dict[str, Any]) -> None:
        answer = self._answers.pop(line["id"])
        if answer.cancelled():
            return
        if "error" in line:
            answer.set_exception(JsError(line["error"]["name"], line["error"]["message"]))
        else:
            answer.set_result(line["ok"])

    def _happened(self, event: dict[str, Any]) -> None:
        self._waiting = [(fits, future) for fits, future in self._waiting if not future.done()]
        for entry in self._waiting:
            if entry[0](event):
                self._waiting.remove(entry)
                entry[1].set_result(event)
                return
        self._events.append(event)

    def _overhear(self) -> None:
        assert self._process.stderr
        for text in self._process.stderr:
            self._complaints.append(text.strip())


def ci() -> bool:
    """Whether a machine that cannot run js-libp2p is a failure (continuous integration) or a pity."""
    return os.environ.get("CI", "") not in ("", "0", "false")
