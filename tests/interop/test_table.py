"""docs/interop.md has the rows and columns of the tests, every line has a test, and red shows."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.interop import table
from tests.interop.lines import EVERY, LINES
from tests.interop.results import Cell, Results


def test_the_page_has_the_rows_and_columns_of_the_tests() -> None:
    assert table.shape(table.PAGE.read_text()) == table.expected(), "run: python -m tests.interop.table"


def test_every_line_has_a_test() -> None:
    taken_up = {
        call.args[0].value
        for file in Path(__file__).parent.glob("test_*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "line"
        if isinstance(call.args[0], ast.Constant)
    }
    assert taken_up == {line.name for line in LINES}


def test_a_failure_and_a_test_that_did_not_run_are_both_visible() -> None:
    connect, bulk = LINES[0], LINES[5]
    failed = Results(cells={connect.name: {str(EVERY[0]): Cell("failed", "AssertionError: no")}})
    text = table.page(failed)
    assert "🟥 fails" in text
    assert f"* {connect.says}; {EVERY[0].title}: AssertionError: no" in text
    assert f"* {bulk.says}; {EVERY[0].title}: no run on record" in text
    assert "✅" not in text
    assert table.shape(text) == table.expected()
