"""`make bench`: every benchmark after the other, ours beside its rivals, and docs/benchmarks.md.

    python -m benchmarks [--section quic.py] [--rounds 5] [--scale 1.0]

Whatever else is given goes to each script. The page holds what was printed, and on what; sections that
are not run now stay as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"

SCRIPTS = {
    "startup.py": "A whole node: until it listens, and at rest",
    "tcp.py": "TCP: set-up, one stream, requests, memory",
    "quic.py": "QUIC: the same, beside bare aioquic",
    "gossip.py": "GossipSub: a delivery beside js-libp2p",
    "consensus.py": "Consensus on disks: 3 voters beside etcd and PySyncObj",
    "consensus.py --nodes 5": "Consensus on disks: 5 voters",
    "consensus.py --failover": "Consensus: the leader is killed",
    "consensus.py --pbft": "Consensus among liars: PBFT, 7 voters",
}
"""What is run, and what its part of the page is called."""

HEAD = """# Benchmarks

Written by `make bench`; do not edit. Both ends run on the machine named below, rivals interleaved in
one run; medians over the rounds, with the smallest and the largest. Ratios hold better than absolutes,
and processor time better than either on a machine that others use too: it is then that the load average
below is above the number of cores.
"""

SECTION = "\n## "


def sections() -> dict[str, str]:
    """What the page holds, by title."""
    if not PAGE.exists():
        return {}
    _, *parts = PAGE.read_text().split(SECTION)
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def write(done: dict[str, str]) -> None:
    """The page, in the order of SCRIPTS."""
    machine = f"{os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}.\n"
    parts = [f"{SECTION}{title}\n{done[title]}" for title in SCRIPTS.values() if title in done]
    PAGE.write_text(f"{HEAD}\n{machine}{''.join(parts)}")


def section(printed: str, command: str, busy: float) -> str:
    """One benchmark's part. busy: the load average when it began."""
    others = f"`{command}`. Load average of the five minutes before: {busy:.1f}."
    return f"\n```\n{printed.strip()}\n```\n\n{others}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--section", action="append", help="only this entry of SCRIPTS")
    arguments, rest = parser.parse_known_args()
    done, failed = sections(), 0
    for command, title in SCRIPTS.items():
        if arguments.section and command not in arguments.section:
            continue
        script, *more = command.split()
        print(f"== {title}", flush=True)
        busy = os.getloadavg()[1]
        ran = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / script), *more, *rest],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        print(ran.stdout, flush=True)
        done[title] = section(ran.stdout, " ".join(["python benchmarks/" + command, *rest]), busy)
        failed += ran.returncode != 0
        write(done)
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
