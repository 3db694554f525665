"""How fast the simulated world is, how much it holds, and how both change with its size.

    python -m benchmarks.world                 the three figures of the lab, then the curve
    python -m benchmarks.world --curve-only    100 to 10,000 nodes, and docs/figures/world.svg
    python -m benchmarks.world --big           also 100,000 nodes (up to 15 minutes, 8 GiB)

Each measure runs in a process of its own, so that one's memory is not another's. Nodes run HyParView
and Plumtree with their defaults, a cycle a minute, on links of 10 to 50 ms; nothing is counted but
what the driver counts. CPU seconds, not wall: the machine may be shared. Resident memory beyond an
interpreter that has imported everything.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from grove_lab.pictures.svg import COLOURS, Plot, stacked

from grove_core.drive.virtual import uniform
from grove_core.testing import Village, part

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "world.svg"
STORED = FIGURE.with_suffix(".json")
SIZES = (100, 300, 1_000, 3_000, 10_000)
CYCLE = 60.0


def resident() -> float:
    """MB of this process."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6


def grown(nodes: int, settle: float, spacing: float = 0.05) -> Village:
    """A bare village, joined and settled."""
    village = Village(
        [part("hyparview", shuffle_interval=CYCLE), part("plumtree")],
        nodes, seed=1, delay=uniform(0.01, 0.05, 1), spacing=spacing,
    )  # fmt: skip
    village.world.sinks.clear()
    return village.grow(settle)


def rate(nodes: int) -> dict[str, float]:
    """Events per second while joining and while broadcasting, and MB once settled."""
    base = resident()
    begun = time.process_time()
    village = grown(nodes, CYCLE)
    world = village.world
    joined, joining = time.process_time(), world.events
    gc.collect()
    memory = resident() - base
    messages = max(10, min(100, 30_000 // nodes))
    sent = time.process_time()
    for number in range(messages):
        world.order[number * 7 % nodes].broadcast.publish("test", bytes(100))
        world.run_for(1.0)
    ended = time.process_time()
    return {
        "nodes": nodes,
        "join_events_per_s": joining / (joined - begun),
        "join_cpu_s": joined - begun,
        "broadcast_events_per_s": (world.events - joining) / (ended - sent),
        "ms_per_broadcast": 1e3 * (ended - sent) / messages,
        "memory_mb": memory,
        "kb_per_node": 1e3 * memory / nodes,
    }


def crash(nodes: int = 10_000) -> dict[str, float]:
    """Claim 9 of the lab: an overlay of 10,000, 95 % crash, messages until it has healed; CPU seconds."""
    begun = time.process_time()
    village = grown(nodes, 3 * CYCLE)
    built = time.process_time() - begun
    rng = Random(1)
    for node in rng.sample(village.alive, round(0.95 * nodes)):
        village.world.crash(node)
    alive = village.alive
    reached: list[float] = []
    village.world.sinks.append(village._write)
    ids = []
    for _ in range(100):
        ids.append(village.publish(rng.choice(alive)))
        village.run_for(0.2)
    village.run_for(10)
    reached = [village.reliability(one) for one in ids]
    return {
        "build_cpu_s": built,
        "cpu_s": time.process_time() - begun,
        "mean_reliability_of_100": sum(reached) / len(reached),
        "of_the_last_20": sum(reached[-20:]) / 20,
    }


def big(nodes: int = 100_000) -> dict[str, float]:
    """100,000 nodes joined, 10 messages delivered, in one process."""
    base, begun = resident(), time.process_time()
    village = grown(nodes, 30.0, spacing=0.01)
    joined = time.process_time() - begun
    village.world.sinks.append(village._write)
    ids = []
    for number in range(10):
        ids.append(village.publish(village.nodes[number * 997 % nodes]))
        village.run_for(3.0)
    village.run_for(10)
    return {
        "nodes": nodes,
        "join_cpu_s": joined,
        "cpu_s": time.process_time() - begun,
        "events": village.world.events,
        "events_per_s": village.world.events / (time.process_time() - begun),
        "memory_mb": resident() - base,
        "reliability": sum(map(village.reliability, ids)) / len(ids),
    }


MEASURES: dict[str, Callable[..., dict[str, float]]] = {"rate": rate, "crash": crash, "big": big}


def apart(measure: str, *sizes: int) -> dict[str, Any]:
    """One measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.world", "--measure", measure, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(
        f"{measure:6} " + "  ".join(f"{name} {value:,.6g}" for name, value in found.items()), flush=True
    )
    return found


def draw(rows: list[dict[str, float]], huge: dict[str, float] | None) -> str:
    """The curve: speed and memory against the number of nodes."""
    sizes = [row["nodes"] for row in rows]
    ends = (sizes[0], huge["nodes"] if huge else sizes[-1])
    top = max(max(row["join_events_per_s"], row["broadcast_events_per_s"]) for row in rows)
    speed = Plot(
        "Events per second of CPU", ends, (0, top * 1.1), log_x=True, x_label="nodes",
        y_label="events/s", subtitle="HyParView + Plumtree, bare, CPython "
        f"{sys.version_info.major}.{sys.version_info.minor}", height=340,
    )  # fmt: skip
    for name, word, colour in (
        ("join", "joining", COLOURS[0]),
        ("broadcast", "broadcasting", COLOURS[1]),
    ):
        points = [(row["nodes"], row[f"{name}_events_per_s"]) for row in rows]
        if huge and name == "join":
            points.append((huge["nodes"], huge["events_per_s"]))
        speed.line(points, colour, label=word)
        speed.dots(points, colour)
    speed.legend()
    memory = [(row["nodes"], max(row["memory_mb"], 0.1)) for row in rows]
    cost = [(row["nodes"], row["ms_per_broadcast"] / 1e3) for row in rows]
    if huge:
        memory.append((huge["nodes"], huge["memory_mb"]))
        cost.append((huge["nodes"], (huge["cpu_s"] - huge["join_cpu_s"]) / 10))
    held = Plot(
        "Memory of the machines and their world", ends,
        (min(value for _, value in memory), max(value for _, value in memory)), log_x=True, log_y=True,
        x_label="nodes", y_label="MB", height=300, top=44,
    )  # fmt: skip
    held.line(memory, COLOURS[2])
    held.dots(memory, COLOURS[2])
    one = Plot(
        "CPU time of one broadcast to everybody", ends,
        (min(value for _, value in cost), max(value for _, value in cost)), log_x=True, log_y=True,
        x_label="nodes", y_label="seconds", height=300, top=44,
    )  # fmt: skip
    one.line(cost, COLOURS[4])
    one.dots(cost, COLOURS[4])
    return stacked([speed, held, one])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", nargs="+", help="be the process that measures (used by itself)")
    parser.add_argument("--curve-only", action="store_true", help="only the curve")
    parser.add_argument("--big", action="store_true", help="100,000 nodes too")
    chosen = parser.parse_args()
    if chosen.measure:
        name, *sizes = chosen.measure
        print(json.dumps(MEASURES[name](*map(int, sizes))))
        return
    stored: dict[str, Any] = json.loads(STORED.read_text()) if STORED.exists() else {}
    stored["curve"] = [apart("rate", nodes) for nodes in SIZES]
    if not chosen.curve_only:
        stored["crash"] = apart("crash")
    if chosen.big:
        stored["big"] = apart("big")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    STORED.write_text(json.dumps(stored, indent=1) + "\n")
    FIGURE.write_text(draw(stored["curve"], stored.get("big")))
    print(f"drawn: {FIGURE}")


if __name__ == "__main__":
    main()
