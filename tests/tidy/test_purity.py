"""Protocol code reads no clock, draws no global randomness and walks no set (contract, rule 2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from grove_core.testing.purity import assert_pure, impurities

ROOT = Path(__file__).parents[2]
BYTE_MACHINES = ("framing", "multistream", "noise", "yamux", "identify")
PURE = [
    *sorted(ROOT.glob("plugins/*/machine.py")),
    *sorted(ROOT.glob("plugins/*/machine/*.py")),
    *sorted(ROOT.glob("plugins/*/messages.py")),
    *sorted(ROOT.glob("contrib/*/*/machine.py")),
    *sorted(ROOT.glob("contrib/*/*/messages.py")),
    *(ROOT / "plugins" / "grove_libp2p" / f"{name}.py" for name in BYTE_MACHINES),
    *(ROOT / "grove_core" / f"{name}.py" for name in ("machine", "events", "codec", "host", "roles")),
]


@pytest.mark.claim("contract.pure")
@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_protocol_code_is_pure(path: Path) -> None:
    assert_pure(path)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import time", "imports time"),
        ("from os import urandom", "imports os"),
        ("from random import choice", "global random"),
        ("import random\nx = random.random()", "calls random.random"),
        ("for x in {1, 2}: pass", "walks a set"),
        ("y = [x for x in set(z)]", "walks a set"),
        ("k = hash('x')", "hash()"),
    ],
)
def test_the_check_sees_what_it_must(source: str, what: str) -> None:
    assert what in impurities(source)[0]


def test_the_check_lets_pure_code_pass() -> None:
    assert impurities("from random import Random\nfor x in sorted({1, 2}): Random(b'')") == []
