"""How long `grove up` takes until it listens, and what it weighs at rest; js-libp2p beside it.

    python benchmarks/startup.py [--rounds 5]

A round starts each once, one after the other, in a shuffled order: a whole Grove node (profile,
store, overlay, local door) with TCP alone and with TCP and QUIC, and a js-libp2p peer if it is
installed. Milliseconds from the start of the process to its first line, by the clock and
of processor time (the clock also counts who else uses the machine); MB resident one second later.
Our modules are compiled before the first round, as pip does when it installs them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JS = ROOT / "tests" / "interop" / "js"

UP = [sys.executable, "-m", "grove_core.cli", "up", "--json"]
TCP, QUIC = ["--listen", "/ip4/127.0.0.1/tcp/0"], ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]


def rivals() -> dict[str, list[str]]:
    """What is started, by name; js only where its packages are installed."""
    found = {
        "grove up, tcp": [*UP, "--set", "roles.transport=tcp", *TCP],
        "grove up, tcp and quic": [*UP, *TCP, *QUIC],
    }
    node = JS / "node_modules" / "node" / "bin" / "node"
    if node.exists():
        found["js-libp2p, tcp and quic"] = [str(node), str(JS / "peer.mjs")]
    return found


def once(command: list[str], compiled: str) -> tuple[float, float, float]:
    """Milliseconds to the first line, of the clock and of processors, and MB resident a second later.

    compiled: a folder for .pyc.
    """
    with tempfile.TemporaryDirectory() as data:
        if "up" in command:
            command = [*command, "--data", data]
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment(compiled),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            if "up" not in command:
                process.stdin.write(json.dumps({"do": "start"}).encode() + b"\n")
                process.stdin.flush()
            line = process.stdout.readline()
            took = 1000 * (time.perf_counter() - begin)
            assert b"listening" in line, line
            worked = busy(process.pid)
            time.sleep(1.0)
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident = next(row for row in status.splitlines() if row.startswith("VmRSS"))
            return took, worked, int(resident.split()[1]) / 1024
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def busy(pid: int) -> float:
    """Milliseconds of processor time that a process has used so far, all threads."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e6


def environment(compiled: str) -> dict[str, str]:
    """Ours, but that bytecode is kept, and kept out of the tree."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": compiled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_known_args()[0].rounds
    commands = rivals()
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as compiled:
        for command in commands.values():
            once(command, compiled)
        for _ in range(rounds):
            for name in random.sample(list(commands), len(commands)):
                figures[name].append(once(commands[name], compiled))
    print(f"{'':28}{'ms to listening':>24}{'of processors':>24}{'MB resident':>14}")
    for name, found in figures.items():
        times, worked, sizes = zip(*found, strict=True)
        spread = "".join(
            f"{f'{statistics.median(each):.0f} ({min(each):.0f}-{max(each):.0f})':>24}"
            for each in (times, worked)
        )
        print(f"{name:28}{spread}{statistics.median(sizes):>14.1f}")


if __name__ == "__main__":
    main()
