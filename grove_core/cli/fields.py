"""What is written about the fields of a Config struct, for help and reference.

A field is documented beside itself, by a trailing comment or by a string below it, so the code is
the one place where a unit or a source is written down:

    active_size: Annotated[int, Meta(ge=1, le=64)] = 5  # links kept open; section 5.1
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from typing import Any

import msgspec

from grove_core.cli.show import toml
from grove_core.words import describe


class Field(msgspec.Struct, frozen=True):
    """One key of a table. default: as TOML, empty if the key must be given. about: one line."""

    name: str
    expects: str
    default: str
    about: str


def fields_of(kind: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The fields of a struct in order, with what the source says about each."""
    about: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        about.update(_comments(parent) if parent.__module__ != "msgspec" and parent is not object else {})
    return tuple(
        Field(field.encode_name, describe(field.type), _default(field), about.get(field.name, ""))
        for field in msgspec.structs.fields(kind)
    )


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return ""
    return toml(msgspec.to_builtins(value))


def _comments(kind: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):  # made at run time: nothing is written about it
        return {}
    comments: dict[int, str] = {}
    alone: set[int] = set()  # lines with nothing but a comment
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ").strip()
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        if (
            isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[node.target.id] = " ".join(after.value.value.split())
            continue
        assert node.end_lineno is not None
        lines = list(range(node.lineno, node.end_lineno + 1))
        while lines[-1] + 1 in alone:  # a comment that goes on below the field
            lines.append(lines[-1] + 1)
        found[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return found
