"""A machine written down and put back: what a group certifies of the upper protocol's machine.

The contract makes a machine a plain object that can be copied: no context, no function, no handle. So its
state is a tree of values with shared parts, and can be written as one:

    values      None, bool, int, float, str, bytes, tuple, structs: by value
    containers  list, dict, deque, bytearray, Random, objects: once, then by number, so that what was
                shared is shared again
    constants   objects both sides have (a configuration, the part itself): by number

Equal machines give equal bytes: dicts are written in their order, nothing depends on addresses. What is
read back can only become classes that are visible in the modules the machine itself is made of: a state
names no code. A machine with anything else in it cannot be written, and says so.

Left to others: who signs the bytes, and whether to believe them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from grove_core.errors import LocalProtocolError, RemoteProtocolError

_PLAIN = (bool, int, float, str, bytes)
_MAX_DEPTH = 100


def classes_of(machine: object, *more: type) -> dict[str, type]:
    """The classes of the packages that a machine is made of, as far as its modules see each other; by
    module and name. more: others that may occur."""
    kinds = [kind for kind in type(machine).__mro__ if kind is not object]
    tops = {kind.__module__.partition(".")[0] for kind in kinds} - {"typing"}
    found = {_name(kind): kind for kind in (*kinds, *more)}
    seen: dict[str, None] = {}
    modules = [module for kind in kinds for module in _modules(vars(kind))]
    while modules:
        module = modules.pop()
        name = str(module.get("__name__"))
        if name in seen or name.partition(".")[0] not in tops:
            continue
        seen[name] = None
        modules += _modules(module)
        for one in module.values():
            if isinstance(one, type) and one.__module__.partition(".")[0] in tops:
                found[_name(one)] = one
                modules += _modules(vars(one))
    return found


def _modules(names: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The modules that the functions among these were written in."""
    return [one.__globals__ for one in names.values() if hasattr(one, "__globals__")]


def write(value: object, classes: dict[str, type], constants: Sequence[object]) -> bytes:
    """A state as bytes. LocalProtocolError if it holds what is none of the above."""
    return msgspec.msgpack.encode(_Writer(classes, constants).node(value, 0))


def read(data: bytes, classes: dict[str, type], constants: Sequence[object]) -> Any:
    """The state that was written. RemoteProtocolError if these bytes are none."""
    try:
        return _Reader(classes, constants).value(msgspec.msgpack.decode(data))
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"no memento: {error}") from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise RemoteProtocolError(f"a memento that contradicts itself: {error}") from None


class _Writer:
    def __init__(self, classes: dict[str, type], constants: Sequence[object]) -> None:
        self.classes = classes
        self.constants = {id(one): number for number, one in enumerate(constants)}
        self.seen: dict[int, int] = {}
        self.alive: list[object] = []  # so that no number is used twice

    def node(self, value: Any, depth: int) -> Any:
        if value is None or type(value) in _PLAIN:
            return value
        if depth > _MAX_DEPTH:
            raise LocalProtocolError(f"a machine's state is nested deeper than {_MAX_DEPTH}")
        if id(value) in self.constants:
            return ["c", self.constants[id(value)]]
        if type(value) is tuple:
            return ["t", *(self.node(one, depth + 1) for one in value)]
        if isinstance(value, msgspec.Struct):
            fields = [self.node(getattr(value, name), depth + 1) for name in value.__struct_fields__]
            return ["s", self._known(type(value)), *fields]
        if id(value) in self.seen:
            return ["r", self.seen[id(value)]]
        self.seen[id(value)] = len(self.seen)
        self.alive.append(value)
        return self._shared(value, depth + 1)

    def _shared(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is list:
            return ["l", *(self.node(one, depth) for one in value)]
        if kind is dict:
            return ["d", *(self.node(one, depth) for pair in value.items() for one in pair)]
        if kind is deque:
            return ["q", value.maxlen, *(self.node(one, depth) for one in value)]
        if kind is bytearray:
            return ["b", bytes(value)]
        if kind is Random:
            version, words, gauss = value.getstate()
            return ["n", version, b"".join(word.to_bytes(4, "big") for word in words), gauss]
        said: list[Any] = []
        for name in _attributes(value):
            said += [name, self.node(getattr(value, name), depth)]
        return ["o", self._known(kind), *said]

    def _known(self, kind: type) -> str:
        name = _name(kind)
        if self.classes.get(name) is not kind:
            raise LocalProtocolError(
                f"a {name} cannot be written down: its machine's modules do not name it"
            )
        return name


class _Reader:
    def __init__(self, classes: dict[str, type], constants: Sequence[object]) -> None:
        self.classes = classes
        self.constants = constants
        self.seen: list[Any] = []

    def value(self, node: Any) -> Any:
        if not isinstance(node, list):
            if node is None or type(node) in _PLAIN:
                return node
            raise ValueError(f"a {type(node).__name__} where a value is expected")
        tag, rest = node[0], node[1:]
        if tag == "c":
            return self.constants[rest[0]]
        if tag == "t":
            return tuple(self.value(one) for one in rest)
        if tag == "s":
            kind = self._known(rest[0], is_struct=True)
            return kind(*(self.value(one) for one in rest[1:]))
        if tag == "r":
            return self.seen[rest[0]]
        return self._shared(tag, rest)

    def _shared(self, tag: Any, rest: list[Any]) -> Any:
        at = len(self.seen)
        self.seen.append(None)
        if tag == "l":
            made: Any = []
            self.seen[at] = made
            made.extend(self.value(one) for one in rest)
        elif tag == "d":
            made = self.seen[at] = {}
            for key, value in zip(rest[::2], rest[1::2], strict=True):
                made[self.value(key)] = self.value(value)
        elif tag == "q":
            made = self.seen[at] = deque(maxlen=rest[0])
            made.extend(self.value(one) for one in rest[1:])
        elif tag == "b":
            made = self.seen[at] = bytearray(rest[0])
        elif tag == "n":
            version, words, gauss = rest
            made = self.seen[at] = Random(0)
            numbers = (int.from_bytes(words[at : at + 4], "big") for at in range(0, len(words), 4))
            made.setstate((version, tuple(numbers), gauss))
        elif tag == "o":
            kind = self._known(rest[0], is_struct=False)
            made = self.seen[at] = kind.__new__(kind)
            for name, value in zip(rest[1::2], rest[2::2], strict=True):
                if not isinstance(name, str) or name.startswith("__"):
                    raise ValueError("an attribute without a name")
                object.__setattr__(made, name, self.value(value))
        else:
            raise ValueError(f"no kind of value is called {tag!r}")
        return made

    def _known(self, name: Any, *, is_struct: bool) -> Any:
        kind = self.classes[name]
        if issubclass(kind, msgspec.Struct) is not is_struct:
            raise ValueError(f"{name} is written as what it is not")
        return kind


def _attributes(value: object) -> Iterable[str]:
    slots = [
        name
        for kind in reversed(type(value).__mro__)
        for name in _slots(kind)
        if hasattr(value, name) and not name.startswith("__")
    ]
    return [*slots, *getattr(value, "__dict__", {})]


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
