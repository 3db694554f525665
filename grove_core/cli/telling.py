"""How `grove up` tells what happens: as JSON lines for programs, as sentences for people.

Invariants:
1. The node never waits for its reader. Lines pass through a bounded queue to a thread that writes;
   what does not fit is counted and told as soon as something does.
2. When the reader is gone, `gone` is called once, so that the node can end.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TextIO

from grove_core.events import Connected, Delivered, Disconnected, NeighborDown, NeighborUp
from grove_core.identity import peer_text, short
from grove_core.machine import Event
from grove_core.outward import json_line, plain, printable
from grove_core.service import LiveNode

BACKLOG: Final = 4096  # lines waiting for the reader
FAREWELL: Final = 1.0  # s for the last lines to be read


class Lines:
    """Writes lines from a thread of its own, so that a slow or dead reader holds up nobody."""

    def __init__(self, stream: TextIO, gone: Callable[[], None]) -> None:
        self.missed = 0  # lines that did not fit since the last one that did
        self._stream, self._gone = stream, gone
        self._queue: queue.Queue[str | None] = queue.Queue(BACKLOG)
        self._thread = threading.Thread(target=self._write, name="grove lines", daemon=True)
        self._thread.start()

    def put(self, line: str) -> bool:
        """Queue one line; False, and counted, if there is no room."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.missed += 1
            return False
        return True

    def close(self) -> None:
        """Give the last lines a moment to leave."""
        try:
            self._queue.put(None, timeout=FAREWELL)
        except queue.Full:
            return
        self._thread.join(FAREWELL)

    def _write(self) -> None:
        try:
            while (line := self._queue.get()) is not None:
                self._stream.write(line + "\n")
                if self._queue.empty():
                    self._stream.flush()
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe; a closed file
            self._silence()
            self._gone()

    def _silence(self) -> None:
        """What is still buffered would raise again when the interpreter ends."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


class JsonTeller:
    """One JSON object per line; the first is "listening"."""

    def __init__(self, gone: Callable[[], None]) -> None:
        self._lines = Lines(sys.stdout, gone)

    def started(self, node: LiveNode) -> None:
        addrs = [str(address.with_peer(node.peer)) for address in node.addresses]
        self._say({"event": "listening", "peer_id": peer_text(node.peer), "addrs": addrs})

    def told(self, event: Event, lost: int) -> None:
        """An event of the node; lost: events before it that the watch had no room for."""
        missed = self._lines.missed + lost
        if missed and self._say({"event": "missed", "count": missed}):
            self._lines.missed = 0
        elif lost:
            self._lines.missed += lost - 1  # and one that `_say` counted
        self._say(plain(event))

    def ended(self) -> None:
        self._lines.close()

    def _say(self, told: dict[str, Any]) -> bool:
        return self._lines.put(json_line(told))


class Narrator:
    """The first minute in four lines, then a line for each thing that happens."""

    def __init__(self, gone: Callable[[], None]) -> None:
        from rich.console import Console

        self._lines = Lines(sys.stdout, gone)
        self._console = Console(highlight=False)

    def started(self, node: LiveNode) -> None:
        plan = node.plan
        self._row("identity", f"{peer_text(node.peer)}")
        self._row("network", f"{plan.settings.network} · profile {plan.profile} · data {node.data}")
        addresses = [str(address) for address in node.addresses] or ["nowhere: this node can only dial"]
        for number, address in enumerate(addresses):
            self._row("" if number else "listening", address)
        asked = len(plan.settings.peers)
        known = f"{asked} peers of the configuration" if asked > 1 else "one peer of the configuration"
        self._row("joining", f"through {known}" if asked else "nobody yet: this node begins a village")
        self._row("next", f"on your other machine:  grove join {node.ticket()}")
        self._row("", "in another terminal:    grove peers --watch 2")

    def told(self, event: Event, lost: int) -> None:
        if lost:
            self._row("missed", f"{lost} events: this terminal is too slow")
        match event:
            case Connected():
                way = "from" if event.inbound else "to"
                agent = f" ({printable(event.agent)})" if event.agent else ""
                self._row(
                    "connected", f"{way} {short(event.peer)}{agent} · {event.transport} · {event.address}"
                )
            case Disconnected():
                reason = f": {printable(event.reason)}" if event.reason else ""
                self._row("lost", f"{short(event.peer)}{reason}")
            case NeighborUp():
                self._row("neighbour", f"{short(event.peer)} joined the overlay here")
            case NeighborDown():
                self._row("neighbour", f"{short(event.peer)} is no longer one")
            case Delivered():
                self._row(printable(event.topic)[:10], f"{short(event.author)}  {printable(event.data)}")

    def ended(self) -> None:
        self._row("stopped", "")
        self._lines.close()

    def _row(self, name: str, text: str) -> None:
        from rich.text import Text

        with self._console.capture() as captured:
            self._console.print(Text.assemble((f"{name:<10} ", "dim"), text), soft_wrap=True)
        self._lines.put(captured.get().rstrip("\n"))
