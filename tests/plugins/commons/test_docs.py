"""What other languages are written from, docs/gateway.md and docs/commons.md, must not be behind."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from grove_commons import SPEC
from grove_commons.outcomes import Code

from grove_core.outward import name_of

DOCS = Path(__file__).parents[3] / "docs"
GATEWAY, COMMONS = (DOCS / "gateway.md").read_text(), (DOCS / "commons.md").read_text()


def test_every_verb_and_what_it_takes_is_in_the_docs() -> None:
    for verb in SPEC.verbs:
        row = next(line for line in GATEWAY.splitlines() if line.startswith(f"| `{verb.name}` |"))
        for field in verb.takes.__struct_fields__:
            assert field in row.split("|")[2], f"{verb.name} takes {field}"


def test_every_event_is_in_the_docs() -> None:
    for kind in SPEC.tells:
        assert f"`{name_of(kind)}`" in GATEWAY
        assert f"`{name_of(kind)}`" in COMMONS


def test_every_reason_is_in_the_docs() -> None:
    for code in get_args(Code):
        if code != "renewed":  # told to nobody: the outcome of an expiry
            assert f"`{code}`" in GATEWAY
            assert f"`{code}`" in COMMONS
