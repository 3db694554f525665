"""What `grove compare` shows in a terminal, and in a pipe: one table for each pair of sides.

Every number in it comes with its interval, its wins and a word; what was left out stands above it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from grove_lab.compare.headline import bare, short_names
from grove_lab.compare.judging import Row, Table

STYLES = {
    "better": "bold green",
    "worse": "bold red",
    "higher": "bold",
    "lower": "bold",
    "equal": "cyan",
    "undecided": "yellow",
    "refused": "yellow",
}


def shown(tables: Sequence[Table], regimes: Sequence[str], honesty: str) -> RenderableType:
    """The tables, each under its regime if there are several, and the box."""
    parts: list[RenderableType] = []
    for table, where in zip(tables, regimes, strict=True):
        if len(tables) > 1:
            a, b = short_names(table.a, table.b)
            parts.append(Text(f"{a} vs {b}: {where}", style="dim"))
        parts += [*_one(table), Text()]
    parts.append(Panel(Text(honesty, style="dim"), box=box.ROUNDED, border_style="dim", padding=(0, 1)))
    return Group(*parts)


def _one(table: Table) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for side, seed, why in table.failed[:5]:
        parts.append(Text(f"left out: {side}, seed {seed}: {why}", style="red"))
    if len(table.failed) > 5:
        parts.append(Text(f"left out: {len(table.failed) - 5} more", style="red"))
    parts.append(Fitted(table))
    parts += [Text(line, style="dim") for line in footnotes(table)]
    return parts


class Fitted:
    """The grid, as wide as the terminal allows: where it is narrow, wins stand in the report only."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        a, b = short_names(self.table.a, self.table.b)
        is_narrow = options.max_width < 94
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
        grid.add_column("metric", no_wrap=True)
        for name in (a, b):
            heading = Text(name if len(name) <= 16 else f"{name[:15]}…")
            grid.add_column(heading, justify="right", overflow="fold")
        interval = self.table.interval
        heads = ("ratio", interval) if is_narrow else ("ratio", interval, "wins")
        for head in heads:
            grid.add_column(head, justify="right", no_wrap=True)
        grid.add_column("verdict", min_width=13)
        for row in self.table.rows:
            *cells, verdict = cells_of(row)
            label = Text(row.label, style="bold" if row.is_primary else "")
            shown = cells[:-1] if is_narrow else cells
            grid.add_row(label, *map(Text, shown), Text(verdict, style=STYLES.get(row.word, "dim")))
        yield grid


def cells_of(row: Row) -> tuple[str, str, str, str, str, str]:
    """A row without its name: a, b, ratio or difference, interval, wins, verdict."""
    if row.word == "no events":
        return figure(row.a), figure(row.b), "-", "-", "-", row.verdict
    interval = "-"
    if row.low is not None and row.high is not None:
        interval = f"[{change(row, row.low)}, {change(row, row.high)}]"
    won, tied, lost = row.wins
    wins = f"{won}/{won + tied + lost}" if row.low is not None else "-"
    return figure(row.a), figure(row.b), change(row, row.estimate), interval, wins, row.verdict


def footnotes(table: Table) -> list[str]:
    """What must stand under a table."""
    notes = [
        f"* p < 0.05 after Holm over {table.family} secondary metrics (primary uncorrected), "
        "and the 99 % interval beyond the margin."
    ]
    row = table.row(table.primary)
    if row is not None and row.aa is not None:
        how = "measured" if table.is_aa_measured else "from the spread of its own runs"
        notes[0] += f" A/A band of {bare(row)}: {band(row)} ({how})."
    if table.identical:
        notes.append(f"Identical on every seed: {', '.join(table.identical)}.")
    if table.zero:
        notes.append(f"Zero throughout: {', '.join(table.zero)}.")
    if table.failed:
        runs = len({(side, seed) for side, seed, _ in table.failed})
        notes.append(f"{runs} failed; the intervals are of the {table.pairs} pairs where both ended.")
    return notes + [
        f"{note if note[1:2].isdigit() else note[0].upper() + note[1:]}." for note in table.notes
    ]


def band(row: Row) -> str:
    """The A/A interval for the eye."""
    assert row.aa is not None
    low, high = row.aa
    if row.is_ratio:
        if abs(low * high - 1) < 1e-9:
            return f"±{_share(high - 1).lstrip('+')} %"
        return f"{_share(low - 1)} … {_share(high - 1)} %"
    return f"{low:+.2g} … {high:+.2g}"


def _share(part: float) -> str:
    """Per cent, two digits: +0.35, -6.7, +148."""
    percent = 100 * part
    return f"{percent:+.0f}" if abs(percent) >= 10 else f"{percent:+.2g}"


def figure(value: float) -> str:
    """About four digits, thousands marked."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    if size >= 1 or value == 0:
        return f"{value:.2f}"
    return f"{value:.4f}"


def change(row: Row, value: float) -> str:
    """A ratio or a difference."""
    if row.is_ratio:
        if value >= 1000:
            return f"{value:,.0f}"
        return f"{value:.1f}" if value >= 20 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    if abs(value) < 5e-5:
        return "0"
    return f"{value:+.4f}" if abs(value) < 1 else f"{value:+,.1f}"
