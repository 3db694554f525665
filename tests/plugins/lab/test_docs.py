"""What docs/simulator.md shows must work as shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from grove_lab import verbs
from grove_lab.choice import parts_for
from grove_lab.compare.verbs import compare
from grove_lab.scenario import parse

OTHERS = (verbs.replay, verbs.run_scenario, verbs.shrink)
PAGE = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()


def test_the_scenario_on_the_page_is_a_scenario() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    scenario = parse(text, place="docs/simulator.md")
    assert scenario.faults["quake"].noticed == "silent"
    assert parts_for("", scenario)


def test_the_python_on_the_page_runs() -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    found: dict[str, object] = {}
    small = text.replace("nodes=200", "nodes=20").replace('"nodes=20"', '"nodes=20", "duration=25"')
    exec(compile(small, "docs/simulator.md", "exec"), found)
    assert found["one"].metrics["delivery_ratio"] == 1.0  # type: ignore[attr-defined]


def test_the_commands_on_the_page_are_commands() -> None:
    lines = [shlex.split(line) for line in PAGE.splitlines() if line.startswith("grove compare ")]
    assert len(lines) >= 5
    for _, _, *words in lines:
        compare.make_context("compare", words)
    told = set(re.findall(r"`(--[a-z-]+)", PAGE))
    known = {option for one in (compare, *OTHERS) for param in one.params for option in param.opts}
    assert told <= known, told - known
