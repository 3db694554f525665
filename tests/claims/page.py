"""docs/claims.md: what Grove promises, what was expected, what came out.

One table per area of tests/claims.toml. A claim holds if a test of it passed and none failed. `red`
in the toml says why one fails, `gap` what a passing one leaves out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeAlias

from tests.claims.store import Kept

Claims: TypeAlias = dict[str, dict[str, dict[str, str]]]
"""Area -> name -> what tests/claims.toml says of it."""

HEAD = """# What Grove promises, and whether it holds

Written by `make claims`; do not edit. Each line is a promise from `tests/claims.toml`, and what its tests
found at full size. Measured is the mean, with the range over the seeds in brackets. **no**: a test
failed, and why. *gap*: held as far as it goes, and what is missing. `gossip.md` 6 is the list of 41
claims that a simulation of these protocols has to reproduce; `docs/sources.md` says where it is from.

"""

COLUMNS = """| claim | promise | source | expected | measured | on | holds |
|---|---|---|---|---|---|---|
"""

MOST = 12
"""What tests told that stands in one cell; of more, the first three."""

Tests: TypeAlias = list[dict[str, Any]]


def page(claims: Claims, kept: Kept, figures: list[tuple[str, str]]) -> str:
    """The page as Markdown. figures: (file name in docs/figures, caption)."""
    told = _by_claim(kept)
    verdicts: Counter[str] = Counter()
    parts, red = [], []
    for area, entries in claims.items():
        parts.append(f"## {area}\n\n{COLUMNS}")
        for name, claim in entries.items():
            tests = told.get(f"{area}.{name}", [])
            word, reason = verdict(claim, tests)
            verdicts[word] += 1
            if word == "**no**":
                red.append(f"- `{area}.{name}`: {reason}\n")
            cells = (
                name,
                claim["sentence"],
                claim["source"],
                _expected(claim),
                _measured(tests),
                _setup(tests),
                word + (f": {reason}" if reason else ""),
            )
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
        if area == "gossip":
            parts += [f"\n![{caption}](figures/{file})\n\n{caption}\n" for file, caption in figures]
        parts.append("\n")
    counted = ", ".join(f"{count} {word}" for word, count in verdicts.most_common())
    summary = f"{sum(verdicts.values())} claims: {counted}.\n\n"
    if red:
        summary += "Red:\n\n" + "".join(red) + "\n"
    return HEAD + summary + "".join(parts) + _runs(kept)


def terminal(claims: Claims, kept: Kept, files: Iterable[str]) -> str:
    """The claims that these files hold up, a line each."""
    told = _by_claim({file: kept[file] for file in files if file in kept})
    lines = []
    for area, entries in claims.items():
        for name, claim in entries.items():
            tests = told.get(f"{area}.{name}")
            if tests:
                word = verdict(claim, tests)[0].strip("*").upper() if _failed(tests) else "ok"
                said = _measured(tests)
                wanted = _expected(claim)
                lines.append(f"{word:3} {area + '.' + name:36} {said}{f'  [{wanted}]' if wanted else ''}")
    return "\n".join(lines)


def has_riddles(claims: Claims, kept: Kept) -> bool:
    """Whether a claim failed and nobody has written down why."""
    told = _by_claim(kept)
    return any(
        _failed(told.get(f"{area}.{name}", [])) and "red" not in claim
        for area, entries in claims.items()
        for name, claim in entries.items()
    )


def _failed(tests: Tests) -> bool:
    return any(test["outcome"] == "failed" for test in tests)


def verdict(claim: dict[str, str], tests: Tests) -> tuple[str, str]:
    """yes, **no**, *gap*, skipped or not run; and the reason in words."""
    outcomes = [test["outcome"] for test in tests]
    if _failed(tests):
        why = next((test.get("why", "") for test in tests if test["outcome"] == "failed"), "")
        return "**no**", claim.get("red") or claim.get("gap") or f"not understood yet: {why}"
    if "gap" in claim:
        return "*gap*", claim["gap"]
    if "passed" in outcomes:
        return "yes", ""
    if outcomes:
        return "skipped here", next((test.get("why", "") for test in tests), "")
    return "**not run**", ""


def _by_claim(kept: Kept) -> dict[str, Tests]:
    found: dict[str, Tests] = {}
    for part in kept.values():
        for test in part["tests"].values():
            for name in test["claims"]:
                found.setdefault(name, []).append(test)
    return found


def _expected(claim: dict[str, str]) -> str:
    said, tolerance = claim.get("expected", ""), claim.get("tolerance", "")
    return f"{said} ({tolerance})" if tolerance else said


def _measured(tests: Tests) -> str:
    said = list(dict.fromkeys(one for test in tests for one in test.get("measured", ())))
    if len(said) > MOST:
        said[3:] = [f"and {len(said) - 3} more (docs/claims.json)"]
    return "; ".join(said)


def _setup(tests: Tests) -> str:
    said = dict.fromkeys(test["setup"] for test in tests if test.get("setup"))
    count = f"{len(tests)} test{'s' * (len(tests) != 1)}" if tests else ""
    return "; ".join((*said, *([count] if count and not said else [])))


def _runs(kept: Kept) -> str:
    """Where and for how long each file ran."""
    rows = [
        "## Runs\n\n| tests | passed | failed | minutes | Python | commit |\n|---|--:|--:|--:|---|---|\n"
    ]
    for file, part in sorted(kept.items()):
        outcomes = Counter(test["outcome"] for test in part["tests"].values())
        minutes = sum(test["seconds"] for test in part["tests"].values()) / 60
        rows.append(
            f"| {file} | {outcomes['passed']} | {outcomes['failed']} | {minutes:.1f} |"
            f" {part['python']} | {part['commit']} |\n"
        )
    return "".join(rows)
