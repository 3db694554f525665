"""What the tests of claims told when they last ran: docs/claims.json.

{test file: {"commit": …, "python": …, "tests": {test id: see ledger.py}}}. Several runs may keep their
parts at once: each reads and writes under a lock.
"""

from __future__ import annotations

import fcntl
import json
import platform
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "claims.json"

Kept: TypeAlias = dict[str, dict[str, Any]]


def commit() -> str:
    """Of the tree: short, with + if it has been changed since; "" if it is none."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude", "*"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()


def read() -> Kept:
    """Everything kept of files that are still there."""
    if not STORE.exists():
        return {}
    kept: Kept = json.loads(STORE.read_text())
    return {file: part for file, part in kept.items() if (ROOT / file).exists()}


def keep(file: str, tests: dict[str, Any], at: str) -> None:
    """Put what one file's tests told in the place of what they told before. at: the commit."""
    with (ROOT / "docs" / ".claims.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = read()
        kept[file] = {"commit": at, "python": platform.python_version(), "tests": tests}
        part = STORE.with_suffix(".json.part")
        part.write_text(text(kept))
        part.replace(STORE)


def text(kept: Kept) -> str:
    """JSON with a line for each test, so that a rerun changes the lines of what came out otherwise."""
    files = []
    for file, part in sorted(kept.items()):
        head = f'"commit": {_json(part["commit"])}, "python": {_json(part["python"])}'
        tests = ",\n".join(f"  {_json(id)}: {_json(test)}" for id, test in part["tests"].items())
        files.append(f' {_json(file)}: {{{head}, "tests": {{\n{tests}\n }}}}')
    return "{\n" + ",\n".join(files) + "\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
