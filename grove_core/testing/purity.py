"""Whether protocol code keeps rule 2 of the contract: no clock, no global randomness, no sets walked.

A static check over the source, so it finds what tests do not run. It cannot see through helpers in
other modules; import-linter does that.
"""

from __future__ import annotations

import ast
from pathlib import Path

FORBIDDEN = frozenset(
    [
        "asyncio",
        "datetime",
        "multiprocessing",
        "os",
        "secrets",
        "select",
        "signal",
        "socket",
        "subprocess",
        "threading",
        "time",
        "uuid",
    ]
)
"""Modules that machine.py and messages.py may not import. `random` may be imported for its type."""


def impurities(source: str, name: str = "<source>") -> list[str]:
    """What is impure in a piece of source, as ``name:line: what``. Empty when it is pure.

    Reported: imports of FORBIDDEN modules; calls of functions of the `random` module; loops over a
    set display, a set comprehension or a call of `set`/`frozenset`; `id()` and `hash()`.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.Import):
            found += [
                (node.lineno, f"imports {alias.name}")
                for alias in node.names
                if alias.name.split(".")[0] in FORBIDDEN
            ]
        elif isinstance(node, ast.ImportFrom):
            top = (node.module or "").split(".")[0]
            if top in FORBIDDEN:
                found.append((node.lineno, f"imports {node.module}"))
            elif top == "random" and any(alias.name != "Random" for alias in node.names):
                found.append((node.lineno, "imports the global random stream; use ctx.rng"))
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                if called.value.id == "random" and called.attr != "Random":
                    found.append((node.lineno, f"calls random.{called.attr}; use ctx.rng"))
            elif isinstance(called, ast.Name) and called.id in ("id", "hash"):
                found.append((node.lineno, f"calls {called.id}(), which differs between runs"))
        elif isinstance(node, ast.For | ast.comprehension) and _is_set(node.iter):
            found.append((node.iter.lineno, "walks a set; use a dict or a sorted tuple"))
    return [f"{name}:{line}: {what}" for line, what in sorted(found)]


def assert_pure(*paths: Path) -> None:
    """AssertionError with every impurity in these files."""
    found = [what for path in paths for what in impurities(path.read_text(), str(path))]
    assert not found, "\n".join(found)


def _is_set(node: ast.expr) -> bool:
    return isinstance(node, ast.Set | ast.SetComp) or (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("set", "frozenset")
    )
