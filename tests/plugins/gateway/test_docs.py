"""docs/gateway.md is what other languages are written from, so it must not be behind."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from grove_gateway import driver, frames, place, verbs

from grove_core.outward import name_of

TEXT = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()


def test_every_verb_event_kind_and_code_is_in_the_docs() -> None:
    for name in verbs.ASKS:
        assert f"| `{name}` |" in TEXT, name
    for kind in get_args(frames.Kind):
        assert kind in TEXT, kind
    for event in driver.TOLD:
        assert f"`{name_of(event)}`" in TEXT, event
    for _, code in verbs.CODES:
        assert f"| `{code}` |" in TEXT, code


def test_what_a_verb_takes_is_in_the_docs() -> None:
    for name, ask in verbs.ASKS.items():
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
        takes = row.split("|")[2]
        for field in ask.__struct_fields__:
            assert field in takes, f"{name} takes {field}"


def test_limits_are_the_ones_in_the_docs() -> None:
    assert frames.MAX_BODY == 1 << 20
    assert place.MAX_PATH == 103
    config = driver.Config()
    for field in ("clients", "requests", "subscriptions", "topics", "backlog"):
        assert f"`{field}`" in TEXT
        assert str(getattr(config, field)) in TEXT
