"""Where the demo is shown: a live picture in a terminal, a few pictures in a pipe, or nothing but JSON.

A stage follows a village: whenever something changes there, `refresh` takes what the homes say into
the `Scene` that `picture.py` draws.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live as RichLive
from rich.text import Text

from grove_core.cli.picture import Kind, Link, Scene, Seat, draw
from grove_core.cli.village import Home, Message, Village

RING = ("oak", "ash", "birch", "cedar", "elm", "fir")  # clockwise from the top


class Silent:
    """No picture: for programs, and what the other stages have in common."""

    pace = 0.1

    def __init__(self) -> None:
        self.is_quiet = False  # say nothing of single messages
        self.scene = Scene([Seat(name, is_super=name == "oak") for name in RING], [])
        self._began = time.monotonic()
        self._seats = {seat.name: seat for seat in self.scene.seats}
        self._village: Village | None = None

    async def __aenter__(self) -> Silent:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def follow(self, village: Village, steps: list[str]) -> None:
        """Show this village from now on."""
        self.scene.steps = steps
        self._village = village
        village.on_heard = self._heard
        village.on_whole = self._whole

    def step(self, name: str) -> None:
        self.scene.step = self.scene.steps.index(name)
        self.refresh()

    def starting(self, name: str) -> None:
        self._seats[name].state = "starting"
        self.refresh()

    def say(self, text: str, style: str = "") -> None:
        self._tick()
        self.scene.say(text, style)

    def healed(self, mended: float, healed: float) -> None:
        """Seconds from the kill until the tree, and until the overlay, was whole again."""
        self.scene.healed = (mended, healed)

    def keep(self, caption: str) -> None:
        """A moment worth a picture of its own where there is no live one."""

    def show_result(self, result: dict[str, Any]) -> None:
        from grove_core.cli.show import print_json

        print_json("grove.demo", **result)

    def refresh(self) -> None:
        """Take what the homes say into the scene."""
        self._tick()
        village, scene = self._village, self.scene
        if village is None:
            return
        names = village.names
        scene.links.clear()
        for home in village.homes.values():
            if home.is_alive and home.rows:
                self._seats[home.name].state = "up"
            elif home.peer and not home.is_alive:
                self._seats[home.name].state = "dead"
            for row in home.rows:
                other = names.get(row["peer"])
                if other is not None and village.homes[other].is_alive:
                    scene.links[home.name, other] = Link(row["transport"], _kind(row))
        scene.published = len(village.messages)
        scene.delivered, scene.expected = village.delivered, village.expected

    def _tick(self) -> None:
        self.scene.now = time.monotonic() - self._began

    def _heard(self, home: Home) -> None:
        self._tick()
        self._seats[home.name].received += 1
        self._seats[home.name].flashed = self.scene.now

    def _whole(self, message: Message) -> None:
        if self.is_quiet or message.took is None:
            return
        self.say(
            f"{message.author} was heard by all {len(message.audience)} others "
            f"in {message.took * 1000:.0f} ms"
        )


class Plain(Silent):
    """For pipes and logs: each line as it is said, and a picture at the moments that matter."""

    pace = 0.2

    def __init__(self) -> None:
        super().__init__()
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # braille in an ASCII pipe is no reason to die
        self._console = Console(width=80, highlight=False)

    def say(self, text: str, style: str = "") -> None:
        super().say(text, style)
        self._console.print(f"{self.scene.now:5.1f} s  {text}", markup=False, soft_wrap=True)

    def keep(self, caption: str) -> None:
        self.refresh()
        self._console.print(draw(self.scene, 80))
        self._console.print(f"         {caption}\n", markup=False)

    def show_result(self, result: dict[str, Any]) -> None:
        self._console.print(verdict(result))


class Live(Silent):
    """For people: one picture that moves."""

    pace = 0.7

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(highlight=False)
        self._live = RichLive(
            console=self._console, refresh_per_second=12, get_renderable=self._draw, transient=False
        )

    async def __aenter__(self) -> Live:
        self._live.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._live.refresh()
        self._live.stop()

    def show_result(self, result: dict[str, Any]) -> None:
        self._console.print(verdict(result))

    def _draw(self) -> Any:
        self._tick()
        return draw(self.scene, self._console.width)


def verdict(result: dict[str, Any]) -> Text:
    """The last lines: what was seen, or what went wrong, and what to do next."""
    if not result["ok"]:
        text = Text("\nThe demo did not go as it should: ", "bold red")
        lost = result["expected"] - result["delivered"]
        text.append(
            result["problem"] or f"{lost} messages lost, {result['duplicates']} duplicates", "red"
        )
        return text
    ways = " and ".join(kind.upper() for kind in result["transports"])
    text = Text("\n")
    text.append("Five nodes", "bold")
    text.append(f", {ways}: ")
    text.append(f"{result['delivered']} of {result['expected']} deliveries", "green")
    text.append(f" of {result['published']} messages.\n{result['killed_node']} was killed: ")
    text.append(f"the tree mended in {result['mended_s']:.2f} s, the overlay healed in ")
    claim = result["claim"]
    text.append(f"{result['healed_s']:.2f} s.\nIts task went to {claim['next_holder']} after ")
    text.append(
        f"{claim['taken_over_s']:.2f} s, with fence {claim['next_token']}; its late result, with "
    )
    text.append(f"fence {claim['token']}, was refused.\nOne came later, by ticket.\n")
    text.append("next  ", "dim")
    text.append("grove up", "bold")
    text.append(" here; on another machine ", "dim")
    text.append("grove up", "bold")
    text.append(" and ", "dim")
    text.append("grove join TICKET", "bold")
    return text


def _kind(row: dict[str, Any]) -> Kind:
    if row["link"] == "eager":
        return "eager"
    return "lazy" if row["link"] == "lazy" else "linked"
