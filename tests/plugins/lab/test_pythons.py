"""One seed is one history on every CPython that Grove runs on: 3.11, 3.12 and 3.13, where they are.

`make pythons` gives each interpreter that is found an environment below .venv/pythons; where it was not
run, or an interpreter is absent, the test for it is skipped and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.lab.conftest import VILLAGE
from tests.plugins.lab.histories import ROUGH

VERSIONS = ("3.11", "3.12", "3.13")
ROOT = Path(__file__).parents[3]
HISTORY = """
import sys
from grove_lab.run import run
from grove_lab.scenario import parse
one = run(parse(sys.stdin.read(), name="village"), seed=5, trace=True)
assert one.violation is None, one.violation
print(one.digest, one.trace, one.events)
"""


def interpreter(version: str) -> str:
    """One that has Grove's dependencies; skips the test where there is none."""
    if version == "{}.{}".format(*sys.version_info):
        return sys.executable
    ours = ROOT / ".venv" / "pythons" / version / "bin" / "python"
    if not ours.exists():
        pytest.skip(
            f"no CPython {version} with Grove here; `make pythons` makes one where it is installed"
        )
    return str(ours)


def history(python: str, hash_seed: str) -> str:
    done = subprocess.run(
        [python, "-c", HISTORY], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        input=VILLAGE + ROUGH, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def here() -> str:
    """The history on this interpreter under another hash seed: digest, digest of all events, events."""
    return history(sys.executable, "0")


@pytest.mark.claim("lab.pythons")
@pytest.mark.parametrize("version", VERSIONS)
def test_one_seed_is_one_history_on_every_cpython(version: str, here: str) -> None:
    assert history(interpreter(version), "1") == here
