"""The picture of a small village: a ring of nodes, the lines between them, and what just happened.

A `Scene` is plain data that `demo.py` fills from what the nodes say; `draw` turns it into something
rich can print, in a live terminal or as plain text. Lines are drawn in braille dots, two by four to a
character: solid for eager links (the tree that carries messages), dotted for lazy ones (the spares).
Next to the ring stands the same as a matrix, row to column: Q is QUIC and T is TCP, large where the
row's node counts the column's as eager, small where lazy. So the picture is legible without colour.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

State = Literal["absent", "starting", "up", "dead"]
Kind = Literal["eager", "lazy", "linked"]

GRAPH: Final = (42, 13)  # characters across and down in 80 columns
FEED: Final = 5  # lines
FLASH: Final = 0.4  # s that a node stays bright after a message arrived

_STYLE: Final = {"eager": "green", "lazy": "blue", "linked": "bright_black"}
_ORDER: Final = {"eager": 2, "lazy": 1, "linked": 0}
_DASH: Final = {"eager": (1, 1), "lazy": (1, 4), "linked": (1, 7)}  # dots drawn, of how many


@dataclass
class Seat:
    """One node's place on the ring."""

    name: str
    is_super: bool = False
    state: State = "absent"
    received: int = 0
    flashed: float = -9.0  # when a message last arrived, in the scene's seconds


@dataclass
class Link:
    """What one node says of its connection to another."""

    transport: str
    kind: Kind


@dataclass
class Scene:
    """All that is to be seen. links: (from, to) by seat name; steps: what the demo does, in order."""

    seats: list[Seat]
    steps: list[str]
    step: int = 0
    now: float = 0.0  # s since the beginning
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    feed: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=50))
    published: int = 0
    delivered: int = 0
    expected: int = 0
    healed: tuple[float, float] | None = None  # s until the tree, and the overlay, was whole again

    def say(self, text: str, style: str = "") -> None:
        """One more line of the feed."""
        self.feed.append((self.now, text, style))


def draw(scene: Scene, width: int = 80) -> RenderableType:
    """The whole picture, exactly `width` columns (80 to 120) and 22 lines."""
    width = max(80, min(120, width))
    across = GRAPH[0] + (width - 80)
    body = Table.grid(padding=0)
    body.add_column(width=across)
    body.add_column(width=width - across - 4)
    body.add_row(_ring(scene, across, GRAPH[1]), _side(scene))
    return Panel(
        Group(_steps(scene), body, Rule(style="bright_black"), _feed(scene)),
        title=Text("grove demo", "bold green"),
        subtitle=Text(f"{scene.now:.1f} s", "dim"),
        title_align="left",
        subtitle_align="right",
        border_style="bright_black",
        width=width,
    )


def _steps(scene: Scene) -> Text:
    text = Text()
    for number, step in enumerate(scene.steps):
        if number < scene.step:
            text.append(f"✓ {step}  ", "green")
        elif number == scene.step:
            text.append(f"▸ {step}  ", "bold")
        else:
            text.append(f"· {step}  ", "bright_black")
    text.no_wrap = True
    return text


# The ring


class Canvas:
    """Characters of two by four braille dots, each with one style; the strongest line gives it."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._dots = [[0] * width for _ in range(height)]
        self._kind: list[list[Kind]] = [["linked"] * width for _ in range(height)]
        self._text: dict[tuple[int, int], tuple[str, str]] = {}

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: Kind) -> None:
        """From character to character (column, row), through their middles."""
        x0, y0 = start[0] * 2 + 1, start[1] * 4 + 2
        x1, y1 = end[0] * 2 + 1, end[1] * 4 + 2
        count = int(max(abs(x1 - x0), abs(y1 - y0))) or 1
        drawn, period = _DASH[kind]
        for step in range(count + 1):
            if step % period < drawn:
                self._dot(
                    round(x0 + (x1 - x0) * step / count), round(y0 + (y1 - y0) * step / count), kind
                )

    def write(self, column: int, row: int, text: str, style: str) -> None:
        """Text over whatever is there, kept inside the canvas."""
        column = max(0, min(column, self.width - len(text)))
        for offset, char in enumerate(text):
            self._text[row, column + offset] = (char, style)

    def _dot(self, x: int, y: int, kind: Kind) -> None:
        column, row = x // 2, y // 4
        if 0 <= column < self.width and 0 <= row < self.height:
            bit = (0x01, 0x02, 0x04, 0x40)[y % 4] if x % 2 == 0 else (0x08, 0x10, 0x20, 0x80)[y % 4]
            if _ORDER[kind] > _ORDER[self._kind[row][column]]:
                self._kind[row][column] = kind
            self._dots[row][column] |= bit

    def lines(self) -> Text:
        text = Text(no_wrap=True)
        for row in range(self.height):
            text.append("\n" if row else "")
            for column in range(self.width):
                dots = self._dots[row][column]
                char, style = self._text.get(
                    (row, column), (chr(0x2800 + dots) if dots else " ", _STYLE[self._kind[row][column]])
                )
                text.append(char, style)
        return text


def _ring(scene: Scene, width: int, height: int) -> Text:
    canvas = Canvas(width, height)
    middle = ((width - 1) / 2, (height - 1) / 2)
    radius = (middle[0] - 6, middle[1] - 0.5)
    places = {}
    for number, seat in enumerate(scene.seats):
        angle = 2 * math.pi * number / len(scene.seats) - math.pi / 2
        places[seat.name] = (
            middle[0] + radius[0] * math.cos(angle),
            middle[1] + radius[1] * math.sin(angle),
        )
    names = [seat.name for seat in scene.seats]
    for kind in ("linked", "lazy", "eager"):
        for number, one in enumerate(names):
            for other in names[number + 1 :]:
                if _pair(scene, one, other) == kind:
                    canvas.line(places[one], places[other], kind)
    for seat in scene.seats:
        column, row = (round(at) for at in places[seat.name])
        _seat(canvas, scene, seat, column, row)
    return canvas.lines()


def _pair(scene: Scene, one: str, other: str) -> Kind | None:
    """The stronger of what the two say of each other."""
    said = [scene.links[pair].kind for pair in ((one, other), (other, one)) if pair in scene.links]
    return max(said, key=_ORDER.__getitem__, default=None)


def _seat(canvas: Canvas, scene: Scene, seat: Seat, column: int, row: int) -> None:
    mark, style = "◆" if seat.is_super else "●", "bold"
    if seat.state == "dead":
        mark, style = "✖", "bold red"
    elif seat.state in ("absent", "starting"):
        mark, style = "○", "bright_black"
    elif scene.now - seat.flashed < FLASH:
        style = "bold bright_yellow"
    count = f" {seat.received}" if seat.state == "up" else ""
    text = f" {mark} {seat.name}{count} "
    canvas.write(column - len(text) // 2, row, text, style)


# Beside it


def _side(scene: Scene) -> RenderableType:
    legend = Text()
    legend.append("⠒⠒⠒ Q T", "green")
    legend.append(" eager  ", "")
    legend.append("⠂ ⠂ q t", "blue")
    legend.append(" lazy")
    whole = scene.delivered == scene.expected
    told = Text(f"{scene.published} messages, ")
    told.append(f"{scene.delivered}/{scene.expected} delivered", "green" if whole else "yellow")
    parts: list[RenderableType] = [
        _matrix(scene),
        Text(),
        legend,
        Text("Q quic · T tcp · number: received", "bright_black"),
        told,
    ]
    if scene.healed is not None:
        mended, healed = scene.healed
        parts.append(Text(f"tree {mended:.2f} s · overlay {healed:.2f} s", "green"))
    return Group(*parts)


def _matrix(scene: Scene) -> Table:
    shown = [seat for seat in scene.seats if seat.state != "absent"]
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=6, style="bold", no_wrap=True)
    for _ in shown:
        table.add_column(width=3, justify="center", no_wrap=True)
    table.add_row("", *(Text(seat.name[:3], _name_style(seat)) for seat in shown))
    for seat in shown:
        cells = [
            Text("·", "bright_black")
            if other is seat
            else _cell(scene.links.get((seat.name, other.name)))
            for other in shown
        ]
        table.add_row(Text(seat.name[:6], _name_style(seat)), *cells)
    return table


def _name_style(seat: Seat) -> str:
    return {"dead": "red strike", "up": "bold"}.get(seat.state, "bright_black")


def _cell(link: Link | None) -> Text:
    if link is None:
        return Text(" ")
    letter = link.transport[:1]
    if link.kind == "eager":
        return Text(letter.upper(), "bold green")
    return Text(letter.lower(), _STYLE[link.kind])


def _feed(scene: Scene) -> Text:
    lines = [
        Text.assemble((f"{when:5.1f} s  ", "bright_black"), (what, style))
        for when, what, style in list(scene.feed)[-FEED:]
    ]
    text = Text("\n").join(lines + [Text()] * (FEED - len(lines)))
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
