"""What `grove compare` shows in a terminal, and in a pipe: one table for each pair of sides.

Every number in it comes with its interval, its wins and a word; what was left out stands above it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
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


def shown(tables: Sequence[Table], title: str, honesty: str) -> RenderableType:
    """Everything above the summary: the regime, the tables, the box."""
    parts: list[RenderableType] = []
    for table in tables:
        parts += [Text(title.format(nodes=table.nodes), style="bold"), *_one(table), Text()]
    parts.append(Panel(Text(honesty, style="dim"), box=box.ROUNDED, border_style="dim", padding=(0, 1)))
    return Group(*parts)


def _one(table: Table) -> list[RenderableType]:
    a, b = short_names(table.a, table.b)
    parts: list[RenderableType] = []
    for side, seed, why in table.failed[:5]:
        parts.append(Text(f"left out: {side}, seed {seed}: {why}", style="red"))
    if len(table.failed) > 5:
        parts.append(Text(f"left out: {len(table.failed) - 5} more", style="red"))
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    grid.add_column("metric", no_wrap=True)
    grid.add_column(Text(a), justify="right", no_wrap=True, max_width=16, overflow="ellipsis")
    grid.add_column(Text(b), justify="right", no_wrap=True, max_width=16, overflow="ellipsis")
    grid.add_column("ratio", justify="right", no_wrap=True)
    grid.add_column("95 % interval", justify="right", no_wrap=True)
    grid.add_column("wins", justify="right", no_wrap=True)
    grid.add_column("verdict", min_width=20)
    for row in table.rows:
        style = STYLES.get(row.word, "dim")
        name = Text(row.label, style="bold" if row.is_primary else "")
        cells = cells_of(row)
        grid.add_row(name, *map(Text, cells[:-1]), Text(cells[-1], style=style))
    parts.append(grid)
    parts += [Text(line, style="dim") for line in footnotes(table)]
    return parts


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
    notes = [f"* p < 0.05 after Holm over {table.family} secondary metrics (primary uncorrected)."]
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
    return notes + [f"{note[0].upper()}{note[1:]}." for note in table.notes]


def band(row: Row) -> str:
    """The A/A interval for the eye."""
    assert row.aa is not None
    low, high = row.aa
    if row.is_ratio:
        if abs(low * high - 1) < 1e-9:
            return f"±{100 * (high - 1):.2g} %"
        return f"{100 * (low - 1):+.2g} … {100 * (high - 1):+.2g} %"
    return f"{low:+.2g} … {high:+.2g}"


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


def text_of(tables: Sequence[Table], title: str, honesty: str, width: int = 110) -> str:
    """The same as plain text, for pipes and report.md."""
    console = Console(width=width, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(shown(tables, title, honesty))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip() + "\n"
