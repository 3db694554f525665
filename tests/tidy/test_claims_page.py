"""What tests told of their claims is kept, judged and drawn as it was told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.claims import figures, page, store

ROOT = Path(__file__).parents[2]
MARK = "pytest.mark.claim"  # in words, so that these tests of tests hold up no claim

CLAIMS: page.Claims = {
    "gossip": {
        "01-full": {"sentence": "Views fill.", "source": "x", "expected": "99 %", "tolerance": "+-1"},
        "02-red": {"sentence": "It flies.", "source": "x", "red": "it has no wings"},
        "03-gap": {"sentence": "It swims.", "source": "x", "gap": "not in winter"},
        "04-not-run": {"sentence": "It walks.", "source": "x"},
    }
}


def told(*claims: str, outcome: str = "passed", **told: Any) -> dict[str, Any]:
    return {"claims": list(claims), "outcome": outcome, "seconds": 1.0, **told}


def kept(**tests: dict[str, Any]) -> store.Kept:
    return {"tests/sim/test_x.py": {"commit": "abc", "python": "3.11", "tests": tests}}


RUN = kept(
    a=told("gossip.01-full", measured=["99.8 (99.7 to 99.9)"], setup="n = 10, seeds 1 to 5"),
    b=told("gossip.02-red", outcome="failed", why="assert 1 == 2"),
    c=told("gossip.03-gap"),
)


def test_expected_stands_beside_measured_and_a_red_claim_beside_its_reason() -> None:
    lines = page.page(CLAIMS, RUN, []).splitlines()
    row = next(line for line in lines if line.startswith("| 01-full"))
    assert "99 % (+-1) | 99.8 (99.7 to 99.9) | n = 10, seeds 1 to 5 | yes" in row
    assert "- `gossip.02-red`: it has no wings" in lines
    assert any(line.startswith("| 03-gap") and "*gap*: not in winter" in line for line in lines)
    assert any(line.startswith("| 04-not-run") and "**not run**" in line for line in lines)


def test_of_hundreds_of_tests_a_cell_has_the_first_three() -> None:
    many = {f"t{one}": told("gossip.01-full", measured=[f"seeds {one}"]) for one in range(400)}
    row = next(
        line for line in page.page(CLAIMS, kept(**many), []).splitlines() if line.startswith("| 01-full")
    )
    assert "| seeds 0; seeds 1; seeds 2; and 397 more (docs/claims.json) |" in row


def test_one_failed_test_of_a_claim_is_enough_and_a_red_one_without_a_reason_is_a_riddle() -> None:
    both = kept(a=told("gossip.01-full"), b=told("gossip.01-full", outcome="failed", why="assert 0"))
    word, reason = page.verdict(
        CLAIMS["gossip"]["01-full"], list(both["tests/sim/test_x.py"]["tests"].values())
    )
    assert word == "**no**"
    assert "assert 0" in reason
    assert page.has_riddles(CLAIMS, both)
    assert not page.has_riddles(CLAIMS, RUN)


def test_a_rerun_replaces_its_file_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("one.py", "two.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(store, "STORE", tmp_path / "docs" / "claims.json")
    store.keep("one.py", {"a": told("x.y")}, "1")
    store.keep("two.py", {"b": told("x.y")}, "1")
    store.keep("one.py", {"c": told("x.y")}, "2")
    assert {file: (part["commit"], *part["tests"]) for file, part in store.read().items()} == {
        "one.py": ("2", "c"),
        "two.py": ("1", "b"),
    }
    (tmp_path / "two.py").unlink()
    assert list(store.read()) == ["one.py"]


def test_the_papers_curve_and_ours_are_in_one_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FIGURES", tmp_path)
    ours = {
        "figure": "hyparview-2",
        "name": "HyParView",
        "points": [(10, 100, 99, 100), (95, 91, 86, 95)],
    }
    ((file, _),) = figures.draw(kept(a=told("gossip.07", curves=[ours])))
    drawn = (tmp_path / file).read_text()
    assert drawn.count("stroke-dasharray") == 4, "four published curves"
    assert drawn.count("stroke-width='2'") == 1, "one of ours"


def test_the_ledger_runs_a_file_and_writes_what_its_tests_told(tmp_path: Path) -> None:
    file, into = tmp_path / "test_told.py", tmp_path / "told.json"
    file.write_text(
        "import pytest\n"
        f"@{MARK}('x.good')\n"
        "def test_good(record_property):\n"
        "    record_property('measured', 7)\n"
        "    record_property('setup', 'n = 3')\n"
        f"@{MARK}('x.bad')\n"
        "def test_bad():\n"
        "    assert 1 == 2\n"
        "def test_of_no_claim():\n"
        "    raise RuntimeError\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.claims.ledger", str(file), str(into)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    tests = {name.split("::")[1]: one for name, one in json.loads(into.read_text()).items()}
    assert set(tests) == {"test_good", "test_bad"}
    assert (tests["test_good"]["measured"], tests["test_good"]["setup"]) == (["7"], "n = 3")
    assert tests["test_bad"]["outcome"] == "failed"
    assert "1 == 2" in tests["test_bad"]["why"]
