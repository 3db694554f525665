"""Types and names in words, for error texts and the reference: what a field expects, what was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import inspect


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return close[0] if close else None


def describe(kind: Any) -> str:
    """What a config field expects, in words: "an integer from 1 to 64"."""
    return _words(inspect.type_info(kind))


def _words(about: inspect.Type) -> str:
    match about:
        case inspect.Metadata():
            return _words(about.type)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "an integer" + _bounds(about)
        case inspect.FloatType():
            return "a number" + _bounds(about)
        case inspect.StrType() | inspect.BytesType():
            noun = "text" if isinstance(about, inspect.StrType) else "text in base64"
            low, high = about.min_length, about.max_length
            pattern = getattr(about, "pattern", None)
            noun += f" like {pattern}" if pattern else ""
            if high is not None:
                return f"{noun} of {low or 0} to {high} characters"
            return f"{noun} of at least {low} characters" if low else noun
        case inspect.LiteralType():
            return " or ".join(short(value) for value in about.values)
        case inspect.EnumType():
            return " or ".join(short(member.value) for member in about.cls)
        case inspect.NoneType():
            return "nothing"
        case inspect.UnionType():
            return " or ".join(_words(one) for one in about.types)
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            return f"a list of {_plural(about.item_type)}"
        case inspect.TupleType():
            return f"a list of {len(about.item_types)}: {', '.join(map(_words, about.item_types))}"
        case inspect.DictType() | inspect.StructType():
            return "a table"
        case _:
            return type(about).__name__.removesuffix("Type").lower()


def _plural(about: inspect.Type) -> str:
    words = _words(about)
    for one, many in (("an integer", "integers"), ("a number", "numbers"), ("a table", "tables")):
        if words.startswith(one):
            return many + words.removeprefix(one)
    return words


def _bounds(about: inspect.IntType | inspect.FloatType) -> str:
    low = about.ge if about.ge is not None else about.gt
    high = about.le if about.le is not None else about.lt
    if about.ge is not None and about.le is not None:
        return f" from {low:,.10g} to {high:,.10g}"
    above = "above {:,.10g}" if about.gt is not None else "at least {:,.10g}"
    below = "below {:,.10g}" if about.lt is not None else "at most {:,.10g}"
    said = [words.format(bound) for words, bound in ((above, low), (below, high)) if bound is not None]
    if not said:
        return ""
    return (" of " if said[0].startswith("at ") else " ") + " and ".join(said)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A clause for error texts, empty if nothing is near."""
    meant = nearest(name, known)
    return f"; did you mean {meant!r}?" if meant else ""


def short(value: Any) -> str:
    """A value as it stands in an error text, at most 80 characters."""
    text = repr(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 80 else text[:77] + "..."
