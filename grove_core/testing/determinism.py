"""One seed, one history: run the same thing in two processes with different hash seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def assert_deterministic(
    target: str, *, hash_seeds: Sequence[int] = (0, 1, 2), cwd: Path | None = None, timeout: float = 120.0
) -> str:
    """Call ``module:function`` in one process per hash seed; all must return the same text.

    The function takes nothing and returns what must be equal, usually `World.digest()`. Returns it.
    timeout: seconds per process.
    """
    module, _, function = target.partition(":")
    code = f"import {module} as m; print(m.{function}())"
    found = {}
    for seed in hash_seeds:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{target} failed with PYTHONHASHSEED={seed}:\n{done.stderr}"
        found[seed] = done.stdout.strip()
    assert len(set(found.values())) == 1, f"{target} depends on the hash seed: {found}"
    return found[hash_seeds[0]]
