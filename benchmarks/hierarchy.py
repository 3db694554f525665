"""Flat agreement beside hierarchical, regime by regime: where groups lose, where they win, how much.

    python -m benchmarks.hierarchy             all of it, and docs/figures/consensus.svg
    python -m benchmarks.hierarchy --more      only what is not in docs/figures/consensus.json yet
    python -m benchmarks.hierarchy --draw      only the picture
    python -m benchmarks.hierarchy --only wan,batch --sizes 4,7,13

The regimes are the lab's scenarios consensus-*.toml, whose files say where their numbers come from; here
they are run for 4 to 400 nodes and for groups of 4 to 50. Virtual time: nothing here depends on this
machine but `cpu_s`. A flat decision of 400 is 319,600 messages, so of large villages few decisions are
run, in one seed: `counts` and `seeds`. Dots are runs, lines go through their medians. For intervals and
verdicts at 100 nodes: grove compare consensus=pbft consensus=hierarchy --scenario consensus-wan
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from grove_lab.choice import parts_for
from grove_lab.pictures.svg import COLOURS, PALE, Plot, Scale, page
from grove_lab.run import run
from grove_lab.scenario import load

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "consensus.svg"
STORED = FIGURE.with_suffix(".json")

SIZES = (4, 7, 13, 25, 49, 100, 200, 400)
GROUPS = (4, 10, 16)
"""Group sizes drawn over n."""
AT_100 = (4, 5, 10, 20, 25, 50)
"""Group sizes drawn for 100 nodes; divisors, so that towns and groups can be one."""
REQUESTS = (60, 150, 300)
"""Under overload, at 300 a second: 0.2 to 1 s of it."""

FLAT = "consensus=pbft"
TRUSTING = "consensus=hierarchy"
CERTIFIED = "consensus=hierarchy:variant=certified"
CERTIFIED_SIZES = (13, 25, 49, 100)

PYTHON = ("cpu.verify=85e-6", "cpu.sign=28e-6", "cpu.message=20e-6", "cpu.send=5e-6")
"""What signatures and messages cost a Python node (consensus survey, 3.1: its TCP-like profile)."""

KEPT = (
    "commit_ratio", "commit_p50_ms", "commit_mean_ms", "capacity_per_s", "messages_per_commit",
    "bytes_per_commit", "cpu_ms_per_commit", "busiest_cpu_ms_per_commit", "busiest_uplink_ms_per_commit",
)  # fmt: skip

TOLD = {
    "wan": ("commit_p50_ms", "latency, calm WAN, 1 KiB"),
    "batch": ("commit_p50_ms", "latency, 512 KiB batches"),
    "throughput": ("capacity_per_s", "capacity, 1 KiB decisions"),
    "python": ("capacity_per_s", "capacity, Python's costs"),
    "core": ("commit_p50_ms", "latency, all on one core"),
    "locality": ("commit_p50_ms", "latency, groups of neighbours"),
}
"""Regime -> what it is judged by, and what the picture calls it."""


def counts(regime: str, nodes: int) -> int:
    """Decisions of one run."""
    most = {"wan": 5, "locality": 5, "batch": 2, "core": 2, "throughput": 20, "python": 20}[regime]
    return max(1 if regime in ("batch", "core") else 2, min(most, most * 100 // nodes))


def seeds(nodes: int) -> range:
    return range(1, 4 if nodes <= 25 else 2)


Wanted = tuple[str, int, str, int, int, int]
"""Regime, nodes, choice, size of a group (0: flat), requests (0: as `counts` says), seed."""


def wanted(regimes: Sequence[str], sizes: Sequence[int]) -> Iterator[Wanted]:
    """All runs, cheapest first."""
    for nodes in sizes:
        for regime in regimes:
            if regime in ("overload", "locality") and nodes != 100:
                continue
            groups: tuple[int, ...] = AT_100 + GROUPS if nodes == 100 else GROUPS
            if regime == "locality":
                groups = AT_100
            if regime == "overload":
                for requests in REQUESTS:
                    for seed in seeds(nodes):
                        yield regime, nodes, FLAT, 0, requests, seed
                        yield regime, nodes, TRUSTING, 10, requests, seed
                continue
            for seed in seeds(nodes):
                if regime == "locality":  # the towns differ, so flat agreement does too
                    yield from ((regime, nodes, FLAT, -group, 0, seed) for group in groups)
                else:
                    yield regime, nodes, FLAT, 0, 0, seed
                for group in sorted(set(groups)):
                    if nodes // group >= 2:
                        yield regime, nodes, TRUSTING, group, 0, seed
                if regime == "wan" and nodes in CERTIFIED_SIZES and seed == 1:
                    yield regime, nodes, CERTIFIED, 4 if nodes < 20 else 10, 0, seed


def measure(one: Wanted) -> dict[str, Any]:
    """One run. Group sizes below 0: towns of so many under a flat protocol."""
    regime, nodes, choice, group, requests, seed = one
    sets = [f"nodes={nodes}", f"workloads.orders.count={requests or counts(regime, nodes)}"]
    if regime == "overload":
        sets.append(f"duration={10 + requests / 30}")
    if regime == "core":
        sets.append("duration=60")  # one flat decision of 400 takes 16 s there
    if regime == "python":
        sets += PYTHON
    if regime == "locality":
        town = abs(group)
        towns = [[f"@{first}-{first + town - 1}"] for first in range(0, nodes, town)]
        sets += [f"network.cluster={town}", f"plugins.hierarchy.groups={json.dumps(towns)}"]
    elif nodes < 10 or group:
        sets.append(f"plugins.hierarchy.size={group or nodes}")
    scenario = load(f"consensus-{'throughput' if regime == 'python' else regime}", sets)
    begun = time.process_time()
    found = run(scenario, seed=seed, parts=parts_for(choice, scenario))
    assert found.violation is None, found.violation
    return {
        "regime": regime, "nodes": nodes, "choice": choice, "group": group, "requests": requests,
        "seed": seed, "cpu_s": round(time.process_time() - begun, 2), "events": found.events,
        **{name: float(f"{found.metrics[name]:.6g}") for name in KEPT if name in found.metrics},
    }  # fmt: skip


def key(row: dict[str, Any]) -> Wanted:
    regime, choice = str(row["regime"]), str(row["choice"])
    return regime, row["nodes"], choice, row["group"], row["requests"], row["seed"]


# The picture.


class Marked(Scale):
    """A logarithmic axis that begins and ends at given values and has its marks there."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = values[0], values[-1], start, end
        self.log = True
        self.values = list(values)

    @property
    def marks(self) -> list[float]:
        return self.values


class Over(Plot):
    """A plot over numbers of nodes."""

    def __init__(self, title: str, nodes: Sequence[float], y: tuple[float, float], **more: Any) -> None:
        self.nodes = nodes
        super().__init__(title, (nodes[0], nodes[-1]), y, log_x=True, log_y=True, **more)

    def _frame(self, *told: Any) -> None:
        self.x = Marked(self.nodes, self.left, self.right)
        super()._frame(*told)


class Rows(list[dict[str, Any]]):
    """What was measured."""

    def of(self, regime: str, metric: str, choice: str, **where: int) -> dict[int, list[float]]:
        """Values of each seed by number of nodes."""
        found: dict[int, list[float]] = {}
        for row in self:
            fits = all(row[name] == value for name, value in where.items())
            if row["regime"] == regime and row["choice"] == choice and fits and metric in row:
                found.setdefault(row["nodes"], []).append(row[metric])
        return dict(sorted(found.items()))

    def gain(self, regime: str, group: int) -> float | None:
        """How many times better the hierarchy of 100 is, by medians; None if not measured."""
        metric = TOLD[regime][0]
        flat = self.of(regime, metric, FLAT, nodes=100, group=-group if regime == "locality" else 0)
        ours = self.of(regime, metric, TRUSTING, nodes=100, group=group)
        if not flat or not ours:
            return None
        ratio = median(ours[100]) / median(flat[100])
        return ratio if metric == "capacity_per_s" else 1 / ratio


def curves(rows: Rows, regime: str, title: str, subtitle: str, y_label: str) -> Plot:
    """One regime over the number of nodes."""
    metric = TOLD[regime][0]
    lines = [("flat PBFT", COLOURS[0], rows.of(regime, metric, FLAT, group=0))]
    lines += [
        (f"groups of {group}", COLOURS[number], rows.of(regime, metric, TRUSTING, group=group))
        for number, group in enumerate(GROUPS, start=1)
    ]
    values = [value for _, _, line in lines for many in line.values() for value in many]
    certified = rows.of(regime, metric, CERTIFIED) if regime == "wan" else {}
    values += [value for many in certified.values() for value in many]
    plot = Over(
        title, SIZES, (min(values, default=1), max(values, default=1)), x_label="nodes", y_label=y_label,
        subtitle=subtitle, height=340, top=88,
    )  # fmt: skip
    for label, colour, line in lines:
        plot.line([(n, median(many)) for n, many in line.items()], colour, label=label)
        plot.dots([(n, value) for n, many in line.items() for value in many], colour, radius=2.5)
    if certified:
        plot.line([(n, median(many)) for n, many in certified.items()], COLOURS[4], dashed=True,
                  label="certified")  # fmt: skip
        plot.dots([(n, v) for n, many in certified.items() for v in many], COLOURS[4], radius=2.5)
    plot.legend(y=72)
    return plot


def gains(rows: Rows) -> Plot:
    """The whole story at 100 nodes: times better than flat, by group size."""
    told = {
        regime: [(group, gain) for group in AT_100 if (gain := rows.gain(regime, group)) is not None]
        for regime in TOLD
    }
    values = [gain for points in told.values() for _, gain in points] or [1.0]
    plot = Over(
        "Times better than flat PBFT, 100 nodes, by group size", AT_100, (min(values), max(values)),
        x_label="nodes in a group", y_label="times better; below 1: worse",
        subtitle="trusting hierarchy (DLCA_R_P): PBFT in groups, Raft among their leaders",
        width=1440, height=420, top=92,
    )  # fmt: skip
    ends = (plot.x(plot.x.low), plot.x(plot.x.high))
    plot.body.append(
        f"<path d='M{ends[0]:.1f} {plot.y(1):.1f}H{ends[1]:.1f}' stroke='{PALE}' stroke-width='1.5'/>"
    )
    for number, (regime, points) in enumerate(told.items()):
        plot.line(points, COLOURS[number], label=TOLD[regime][1])
        plot.dots(points, COLOURS[number])
    plot.legend(y=76)
    return plot


def overload(rows: Rows) -> Plot:
    """Latency against how long the load lasted."""
    found: dict[str, dict[int, list[float]]] = {FLAT: {}, TRUSTING: {}}
    for row in rows:
        if row["regime"] == "overload":
            found[row["choice"]].setdefault(row["requests"], []).append(row["commit_mean_ms"] / 1e3)
    values = [value for line in found.values() for many in line.values() for value in many]
    top = max(values, default=1.0)
    plot = Plot(
        "Overload: 300 decisions/s, one by one", (0, max(REQUESTS) / 300), (0, top * 1.05),
        x_label="seconds of load", y_label="mean latency (s)", height=340, top=88,
        subtitle="100 nodes, 1 KiB, no batching: the queue grows as long as the load lasts",
    )  # fmt: skip
    for line, label, colour in zip(found.values(), ("flat PBFT", "groups of 10"), COLOURS, strict=False):
        plot.line([(n / 300, median(many)) for n, many in sorted(line.items())], colour, label=label)
        plot.dots([(n / 300, value) for n, many in line.items() for value in many], colour)
    plot.legend(y=72)
    return plot


def draw(rows: Rows) -> str:
    """The summary, and the regimes two by two below it."""
    below = [
        curves(rows, "wan", "Slower: calm WAN, 1 KiB", "40 ms there and back, nothing scarce",
               "commit p50 (ms)"),
        curves(rows, "batch", "Faster: 512 KiB batches", "uplinks of 100 Mbit/s", "commit p50 (ms)"),
        curves(rows, "throughput", "More: decisions of 1 KiB a second",
               "busiest core (60 µs a signature) or 100 Mbit/s uplink always at work", "decisions/s"),
        curves(rows, "python", "More: the same at Python's costs",
               "85 µs a signature, 20 µs a message received, 5 µs sent", "decisions/s"),
        curves(rows, "core", "Faster: all nodes on one core", "60 µs a signature, no network",
               "commit p50 (ms)"),
    ]  # fmt: skip
    if any(row["regime"] == "overload" for row in rows):
        below.append(overload(rows))
    top = gains(rows)
    body, y = [f"<g>{''.join(top.body + top.over)}</g>"], top.height + 20
    for number, plot in enumerate(below):
        body.append(
            f"<g transform='translate({720 * (number % 2)} {y:g})'>{''.join(plot.body + plot.over)}</g>"
        )
        if number % 2 or plot is below[-1]:
            y += plot.height + 16
    return page(1440, y, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--more", action="store_true", help="keep what is stored")
    parser.add_argument("--draw", action="store_true", help="only draw what is stored")
    parser.add_argument("--only", default="", help="regimes, with commas")
    parser.add_argument("--sizes", default="", help="numbers of nodes, with commas")
    chosen = parser.parse_args()
    regimes = chosen.only.split(",") if chosen.only else [*TOLD, "overload"]
    sizes = tuple(map(int, chosen.sizes.split(","))) if chosen.sizes else SIZES
    keep = chosen.more or chosen.draw or chosen.only or chosen.sizes
    rows = Rows(json.loads(STORED.read_text())) if keep and STORED.exists() else Rows()
    if not chosen.draw:
        known = {key(row) for row in rows} if chosen.more else set()
        for one in wanted(regimes, sizes):
            if one in known:
                continue
            found = measure(one)
            rows[:] = [*(row for row in rows if key(row) != one), found]
            STORED.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
            told = {name: found[name] for name in ("commit_p50_ms", "capacity_per_s") if name in found}
            print(*one, told, f"{found['cpu_s']} s", flush=True)
    print(f"{sum(row['cpu_s'] for row in rows):,.0f} s of CPU for {len(rows)} runs")
    FIGURE.write_text(draw(rows))
    print(f"drawn: {FIGURE}")


if __name__ == "__main__":
    main()
