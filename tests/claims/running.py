"""Run test files at full size, so many at a time, each in a process of its own.

The terminal shows a line for each file that is done, and, where it is a terminal, what is being run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from tests.claims import store

ROOT = Path(__file__).parents[2]
CLAIM = re.compile(r"mark\.claim\(|^@line\(", re.MULTILINE)  # @line: tests/interop/lines.py
LOOK = 0.5  # seconds between two looks at what is being run


def files(paths: Sequence[str]) -> list[str]:
    """The test files under the paths that hold up claims, those that took longest first."""
    found = []
    for path in paths or ("tests", "contrib"):
        there = (ROOT / path).resolve()
        if not there.exists():
            raise SystemExit(f"no such file or folder: {path}")
        every = sorted(there.rglob("test_*.py")) if there.is_dir() else [there]
        found += [str(file.relative_to(ROOT)) for file in every if CLAIM.search(file.read_text())]
    took = {file: seconds(part["tests"]) for file, part in store.read().items()}
    return sorted(dict.fromkeys(found), key=lambda file: -took.get(file, 1e6))


def seconds(tests: dict[str, Any]) -> float:
    return sum(float(test["seconds"]) for test in tests.values())


class Run:
    """One file's process."""

    def __init__(self, file: str, folder: Path) -> None:
        self.file = file
        self.into = folder / (file.replace("/", "-") + ".json")
        self.log = self.into.with_suffix(".log")
        self.began = time.monotonic()
        self._output: IO[bytes] = self.log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.claims.ledger", file, str(self.into)],
            cwd=ROOT, stdout=self._output, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def tests(self) -> dict[str, Any]:
        """What the tests that ended told."""
        try:
            tests: dict[str, Any] = json.loads(self.into.read_text())
        except (OSError, ValueError):  # nothing yet, or half of it
            return {}
        return tests

    def told(self) -> str:
        """One line about where it is."""
        ended = len(self.tests())
        return f"{self.file}: {ended} tests, {(time.monotonic() - self.began) / 60:.1f} min"

    def done(self) -> bool:
        if self.process.poll() is None:
            return False
        self._output.close()
        return True

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self._output.close()


def run(chosen: Iterable[str], jobs: int) -> None:
    """Run the files and keep what they told."""
    waiting = list(chosen)
    total, at = len(waiting), store.commit()
    running: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="grove-claims-") as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(Run(waiting.pop(0), Path(folder)))
                for one in [one for one in running if one.done()]:
                    running.remove(one)
                    _finished(one, at, total - len(waiting) - len(running), total)
                _show(" | ".join(one.told() for one in running))
                time.sleep(LOOK)
        finally:
            for one in running:
                one.end()


def _finished(one: Run, at: str, number: int, total: int) -> None:
    tests = one.tests()
    if tests:
        store.keep(one.file, tests, at)
    failed = [name for name, test in tests.items() if test["outcome"] == "failed"]
    passed = sum(test["outcome"] == "passed" for test in tests.values())
    minutes = (time.monotonic() - one.began) / 60
    _show("")
    print(
        f"[{number}/{total}] {one.file}: {passed} passed, {len(failed)} failed, {minutes:.1f} min",
        flush=True,
    )
    for name in failed:
        print(f"    {name.split('::', 1)[-1]}: {tests[name].get('why', '')}", flush=True)
    if one.process.returncode not in (0, 1, 5) or not tests:  # 1: tests failed; 5: none was left
        print("    " + "    ".join(one.log.read_text().splitlines(keepends=True)[-20:]), flush=True)


def _show(line: str) -> None:
    """What is being run, in one line that the next replaces."""
    if sys.stdout.isatty():
        print(f"\r\x1b[2K{line[:160]}", end="", flush=True)
