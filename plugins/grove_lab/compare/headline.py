"""One sentence that says what a table found, never without the regime it was found in.

village-1k (1,000 nodes, links of 10-50 ms, 2 messages/s of 256 B, no faults; 20 paired seeds):
flood has 51 % lower delivery p99 than plumtree, for 2.8x the upload.
"""

from __future__ import annotations

from grove_lab.compare.judging import Row, Table
from grove_lab.compare.pairing import Study
from grove_lab.scenario import LIMITS, Fault, Scenario

PRICES = {
    "bytes_up_per_node_s": "upload",
    "duplicates_per_delivery": "duplicates",
    "messages_per_delivery": "messages",
    "latency_p99_ms": "delivery p99",
    "latency_p50_ms": "delivery p50",
}
"""Metrics that a headline tells beside the primary, most telling first, as it calls them."""

HONESTY = (
    f"This world is simulated; {LIMITS}. Ratios between protocols carry over better than absolute "
    "figures; check what you will rely on with --real, on loopback, or on machines of your own."
)
"""Stands in a box of every report of virtual time."""


def regime(scenario: Scenario, seeds: int = 0, *, links: str = "", time: str = "virtual") -> str:
    """Where a result holds: sizes, links, workload and faults, in one line.

    links: what is between the nodes, if it is not what the scenario says. time: whose seconds.
    """
    told = [f"{scenario.nodes:,} nodes", links] if links else _world(scenario)
    told += [
        f"{_size(one.size)} × {one.rate:g}/s"
        + (" proposals" if one.kind == "propose" else "")
        + (f", {one.count:,} in all" if one.count else "")
        for one in scenario.workloads.values()
    ] or ["nothing published"]
    told.append(
        "faults: " + ", ".join(map(_fault, scenario.faults.values())) if scenario.faults else "no faults"
    )
    told.append(f"{scenario.duration:g} s {time}")
    if seeds:
        told.append(f"{seeds} paired seed{'s' if seeds != 1 else ''}")
    return f"{scenario.name or 'scenario'} ({', '.join(told)})"


def _world(scenario: Scenario) -> list[str]:
    net = scenario.network
    links = {
        "constant": f"links of {_ms(net.delay)} ms",
        "uniform": f"links of {_ms(net.low)}-{_ms(net.high)} ms",
        "regions": f"regions of {net.geography}",
        "clusters": f"clusters of {net.cluster}, {_ms(net.near)} ms inside and {_ms(net.delay)} between",
    }[net.latency]
    told = [f"{scenario.nodes:,} nodes", links]
    if net.uplink:
        told.append(f"uplinks of {_size(net.uplink)}/s")
    if net.loss:
        told.append(f"{net.loss:.2%} loss")
    if scenario.cpu.verify:
        told.append(f"{1e6 * scenario.cpu.verify:g} µs a signature")
    if scenario.cpu.shared:
        told.append("all on one core")
    return told


def _fault(fault: Fault) -> str:
    who = f" of {fault.share:.0%}".replace("%", " %") if fault.share else ""
    return f"{fault.kind}{who} at {fault.at:g} s"


def headline(study: Study, table: Table, where: str = "") -> str:
    """What was found, in its regime. where: the regime, if it is not the study's own."""
    where = where or regime(study.world(table.nodes), table.pairs)
    return f"In {where}: {finding(table)}"


def finding(table: Table) -> str:
    """What was found. Not to be told without the regime."""
    a, b = short_names(table.a, table.b)
    row = table.row(table.primary)
    if table.failed:
        runs = len({(side, seed) for side, seed, _ in table.failed})
        what = f"{runs} run{'s' if runs > 1 else ''} broke an invariant and {'are' if runs > 1 else 'is'}"
        return f"{what} left out; what is said of the rest is not the whole."
    if row is None:
        return f"{table.primary} was not measured, so nothing is claimed."
    name = bare(row)
    if row.word == "refused":
        return f"{table.pairs} pairs are too few for a verdict on {name}; from 6 seeds on there is one."
    if row.word == "undecided":
        return f"which of {a} and {b} has the better {name} is {row.verdict}."
    if row.word in ("equal", "identical", "no events"):
        said = {
            "equal": f"have {row.verdict.replace('equal', 'equal ' + name, 1)}",
            "identical": f"have the same {name} on every seed",
            "no events": f"saw no events of {name}",
        }[row.word]
        return f"{a} and {b} {said}{_price(table, b)}."
    return f"{b} has {_change(row)} {name} than {a}{_price(table, b)}."


def _price(table: Table, b: str) -> str:
    """What else changes, by the most telling metric that is not the primary."""
    rows = [row for metric in PRICES if metric != table.primary and (row := table.row(metric))]
    for row in rows:
        if row.word in ("better", "worse") and row.is_ratio:
            return f", for {times(row.estimate)} the {PRICES[row.metric]}"
    for row in rows:
        if row.word == "undecided" and row.is_ratio:
            return f"; its price, {times(row.estimate)} the {PRICES[row.metric]}, is undecided"
    return ""


def _change(row: Row) -> str:
    """How much higher or lower."""
    if not row.is_ratio:
        return f"{abs(row.estimate):.4g} {'higher' if row.estimate > 0 else 'lower'}"
    if row.estimate >= 2.0:
        return f"{times(row.estimate)} the"
    return f"{abs(row.estimate - 1):.0%} {'higher' if row.estimate > 1 else 'lower'}".replace("%", " %")


def times(ratio: float) -> str:
    """A ratio as people say it: 2.9×, 65×, 0.35×."""
    return f"{ratio:.0f}×" if ratio >= 20 else f"{ratio:.2g}×"


def bare(row: Row) -> str:
    """A metric's name without its unit."""
    return row.label.partition(" (")[0]


def short_names(a: str, b: str) -> tuple[str, str]:
    """Two choices without what they have in common: ``broadcast=`` of both."""
    head = a.partition("=")[0]
    if "=" in a and b.partition("=")[0] == head:
        return a.partition("=")[2], b.partition("=")[2]
    return a, b


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:g}"


def _size(size: float) -> str:
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size:g} B"
