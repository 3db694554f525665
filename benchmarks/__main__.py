"""`make bench`: every benchmark after the other, ours beside its rivals, and docs/benchmarks.md.

    python -m benchmarks [--rounds 5] [--scale 1.0]

Whatever is given goes to each script. The page holds what was printed, and on what.
"""

from __future__ import annotations

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


def main() -> int:
    machine = f"{os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}"
    parts = [HEAD, f"{machine}; `python -m benchmarks {' '.join(sys.argv[1:])}`".rstrip(" `") + "`.\n"]
    failed = 0
    for command, title in SCRIPTS.items():
        script, *more = command.split()
        print(f"== {title}", flush=True)
        busy = os.getloadavg()[1]
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / script), *more, *sys.argv[1:]],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        print(done.stdout, flush=True)
        others = f"Load average of the five minutes before: {busy:.1f}."
        parts.append(f"\n## {title}\n\n```\n{done.stdout.strip()}\n```\n\n{others}\n")
        failed += done.returncode != 0
        PAGE.write_text("".join(parts))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
