"""Many seeds, by hand: clean runs, and how soon known bugs fall.

python -m tests.plugins.raft.seeds clean FIRST LAST [--seconds 60] [--nodes 5]
python -m tests.plugins.raft.seeds mutants [--seconds 10] [--limit 1000]

`clean` prints a line for every hundred seeds and one for each that breaks a rule; its status is 1 if any
did. `mutants` prints the table of docs/raft.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable

from grove_raft.machine import Raft

from grove_core.drive.virtual import SimulationError
from grove_core.testing.agreement import Disagreement
from tests.plugins.raft.mutants import MUTANTS
from tests.plugins.raft.runs import Violation, run

FOUND = (Disagreement, Violation, SimulationError)


def clean(first: int, last: int, seconds: float, nodes: int | None) -> int:
    """Run seeds first to last, both included; returns how many broke a rule."""
    verdicts: Counter[str] = Counter()
    start, wall = time.process_time(), time.monotonic()
    for seed in range(first, last + 1):
        try:
            verdicts[run(seed, seconds=seconds, nodes=nodes).verdict] += 1
        except FOUND as error:
            verdicts["broken"] += 1
            print(f"seed {seed}: {error}", flush=True)
        done = seed - first + 1
        if done % 100 == 0 or seed == last:
            each = (time.process_time() - start) / done
            print(
                f"{done} seeds of {seconds:g} s, {first} to {seed}: {dict(verdicts)}; "
                f"{each:.3f} s of CPU each, {3600 / each:.0f} an hour and core; "
                f"{time.monotonic() - wall:.0f} s by the clock",
                flush=True,
            )
    return verdicts["broken"]


def caught(
    mutant: type[Raft], seconds: float, seeds: Iterable[int], times: int = 1
) -> list[tuple[int, str]]:
    """The first of some seeds that see a bug, and what they say."""
    found: list[tuple[int, str]] = []
    for seed in seeds:
        try:
            run(seed, mutant, seconds=seconds, live=False)
        except FOUND as error:
            found.append((seed, str(error.__cause__ or error)))
            if len(found) == times:
                break
    return found


def table(seconds: float, limit: int) -> None:
    print("| bug | first seeds | what sees it first |\n|---|---|---|")
    for mutant in MUTANTS:
        found = caught(mutant, seconds, range(1, limit + 1), times=3)
        rule = found[0][1].split(": ")[0] if found else ""
        rule = "leases" if " has a lease " in (found[0][1] if found else "") else rule
        rule = "linearizability" if rule.startswith("seed") else rule
        first = ", ".join(str(seed) for seed, _ in found) or f"none of {limit}"
        print(f"| {mutant.__name__} | {first} | {rule} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    many = verbs.add_parser("clean")
    many.add_argument("first", type=int)
    many.add_argument("last", type=int)
    many.add_argument("--seconds", type=float, default=60.0)
    many.add_argument("--nodes", type=int)
    bugs = verbs.add_parser("mutants")
    bugs.add_argument("--seconds", type=float, default=10.0)
    bugs.add_argument("--limit", type=int, default=1000)
    asked = parser.parse_args()
    if asked.verb == "mutants":
        table(asked.seconds, asked.limit)
        return 0
    return int(clean(asked.first, asked.last, asked.seconds, asked.nodes) > 0)


if __name__ == "__main__":
    sys.exit(main())
