"""Every promise has a test and every test's promise is written down (tests/claims.toml)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.interop.lines import LINES

ROOT = Path(__file__).parents[2]
CLAIMS: dict[str, dict[str, str]] = {
    f"{area}.{name}": claim
    for area, claims in tomllib.loads((ROOT / "tests" / "claims.toml").read_text()).items()
    for name, claim in claims.items()
}
MARK = re.compile(r"""mark\.claim\(\s*["']([a-z0-9.-]+)["']\s*\)""")


def held_up() -> dict[str, list[str]]:
    """Claim id -> the files whose tests name it."""
    found: dict[str, list[str]] = {}
    for folder in (ROOT / "tests", *(ROOT / "contrib").glob("*/tests")):
        for path in sorted(folder.rglob("test_*.py")):
            for name in MARK.findall(path.read_text()):
                found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    for line in LINES:  # the interop tests are marked by the line of the table they fill
        found.setdefault(f"interop.{line.name}", []).append("tests/interop/lines.py")
    return found


def test_every_claim_a_test_names_is_written_down() -> None:
    unknown = {name: files for name, files in held_up().items() if name not in CLAIMS}
    assert not unknown, "enter them in tests/claims.toml, with source and sentence"


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_held_up_or_its_gap_is_told(name: str) -> None:
    claim = CLAIMS[name]
    assert claim.get("sentence"), "a claim is a sentence"
    assert claim.get("source"), "a claim has a source: paper and section, specification, or issue"
    assert name in held_up() or claim.get("gap"), "no test holds it up: write one, or say so in `gap`"


def test_the_41_claims_of_the_reference_are_there_by_number() -> None:
    numbered = [name.split(".")[1] for name in CLAIMS if name.startswith("gossip.")]
    assert [int(name[:2]) for name in numbered if name[:2].isdigit()] == list(range(1, 42))
    for name in numbered:
        assert CLAIMS[f"gossip.{name}"].get("expected"), f"{name}: what is expected?"
        assert CLAIMS[f"gossip.{name}"].get("tolerance"), f"{name}: within which tolerance?"
