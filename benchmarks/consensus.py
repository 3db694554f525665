"""Consensus on disks: Grove's Raft and PBFT beside etcd and PySyncObj, real processes, 256 B a command.

    python -m benchmarks.consensus [--nodes 3] [--rounds 5] [--seconds 2]     puts, interleaved
    python -m benchmarks.consensus --failover [--trials 10]                   kill -9 of the leader
    python -m benchmarks.consensus --pbft [--nodes 7]                         PBFT alone

A round starts a fresh group of each rival in a shuffled order, with its defaults, and puts it under three
closed loads: 1, 16 and 256 commands outstanding at the leader. Everything, clients too, is on the
processors of this machine and writes to one disk (in --folder, which must not be in memory; how long an
fdatasync takes there is measured in each round). CPU is that of all processes of the group and of its
client. What each system promises of what it acknowledged, and where its client stands, is said below
the table: figures of different promises are not of one kind.

A gap is the time from the kill to the moment when a command asked for after it is agreed on; every
survivor asks for one each 20 ms, the first that is agreed on counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.etcd_voters import Etcd
from benchmarks.grove_voters import GroveCommons, GroveDoor, GrovePbft, GroveRaft
from benchmarks.pysyncobj_voters import Flushed, PySyncObj, Unbatched
from benchmarks.rounds import Table
from benchmarks.voters import VALUE, Group

OUTSTANDING = (1, 16, 256)
MEASURES = {"rate": "commits/s", "p50": "p50 ms", "p99": "p99 ms", "cpu": "CPU ms/commit"}
RIVALS: tuple[type[Group], ...] = (
    GroveRaft, GroveCommons, GroveDoor, Etcd, PySyncObj, Unbatched, Flushed,
)  # fmt: skip
FAILING: tuple[type[Group], ...] = (GroveRaft, Etcd, PySyncObj)
TIMEOUTS = (1.0, 0.15)
"""T in seconds: elections begin after a time drawn from [T, 2T)."""


def here(rivals: Sequence[type[Group]], chosen: Sequence[str]) -> list[type[Group]]:
    """Those that were asked for and can be measured; why not, of the others."""
    found = []
    for rival in rivals:
        if chosen and rival.name not in chosen:
            continue
        if reason := rival.missing():
            print(f"without {rival.name}: {reason}")
        else:
            found.append(rival)
    return found


def disk(folder: Path, count: int = 100) -> float:
    """Median milliseconds of an fdatasync after 300 B were appended."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(count):
            begin = time.perf_counter()
            os.write(file.fileno(), bytes(300))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


async def puts(rivals: Sequence[type[Group]], arguments: argparse.Namespace) -> None:
    """The rounds, and the table."""
    table = Table(f"{arguments.nodes} voters, {VALUE} B, {arguments.rounds} rounds")
    syncs = []
    for number in range(arguments.rounds):
        for rival in random.sample(rivals, len(rivals)):
            with tempfile.TemporaryDirectory(prefix="grove-", dir=arguments.folder) as folder:
                syncs.append(disk(Path(folder)))
                group = rival(arguments.nodes, Path(folder))
                try:
                    await group.start()
                    for outstanding in OUTSTANDING:
                        said = await group.load(outstanding, arguments.seconds)
                        for measure, unit in MEASURES.items():
                            row = f"{outstanding:3} outstanding: {unit}"
                            table.add(row, rival.label(), said[measure])
                finally:
                    await group.stop()
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    table.figures = dict(sorted(table.figures.items(), key=lambda item: item[0]))
    table.print([rival.label() for rival in rivals])
    middle = statistics.median(syncs)
    print(f"\nfdatasync of 300 B: median {middle:.2f} ms ({min(syncs):.2f} to {max(syncs):.2f})")
    promises(rivals)


def promises(rivals: Sequence[type[Group]]) -> None:
    """What the figures are figures of."""
    for rival in rivals:
        print(f"{rival.name:20} {rival.durability}; {rival.place}")


async def failover(rivals: Sequence[type[Group]], arguments: argparse.Namespace) -> None:
    """A group of each rival lives through all trials, and they take turns."""
    for timeout in TIMEOUTS:
        gaps: dict[str, list[float]] = {rival.label(): [] for rival in rivals}
        with tempfile.TemporaryDirectory(prefix="grove-", dir=arguments.folder) as folder:
            groups = []
            for rival in rivals:
                place = Path(folder) / rival.name.replace(" ", "-")
                place.mkdir()
                groups.append(rival(arguments.nodes, place, timeout))
            try:
                for group in groups:
                    await group.start()
                for _ in range(arguments.trials):
                    for group in random.sample(groups, len(groups)):
                        gaps[group.label()].append(await group.fail_over())
            finally:
                for group in groups:
                    await group.stop()
        trials = f"T = {timeout:g} s, {arguments.trials} trials"
        print(f"\nseconds without commits after kill -9 of the leader of {arguments.nodes}, {trials}")
        for name, found in gaps.items():
            span = f"({min(found):.3f} to {max(found):.3f})"
            print(f"{name:27} median {statistics.median(found):.3f}  {span}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=0, help="voters (3; with --pbft, 7)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (2)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies --seconds (1.0)")
    parser.add_argument("--rival", action="append", default=[], help="only these rivals")
    parser.add_argument("--folder", default=None, help="where the disks are (the temporary folder)")
    parser.add_argument("--failover", action="store_true", help="gaps after the leader's kill -9")
    parser.add_argument("--trials", type=int, default=10, help="kills of each rival's leader (10)")
    parser.add_argument("--pbft", action="store_true", help="PBFT alone")
    arguments = parser.parse_args()
    arguments.nodes = arguments.nodes or (7 if arguments.pbft else 3)
    arguments.seconds = max(arguments.seconds * arguments.scale, 0.2)
    if arguments.failover:
        asyncio.run(failover(here(FAILING, arguments.rival), arguments))
    else:
        rivals: tuple[type[Group], ...] = (GrovePbft,) if arguments.pbft else RIVALS
        asyncio.run(puts(here(rivals, arguments.rival), arguments))


if __name__ == "__main__":
    main()
