"""On which line of a TOML file each key stands.

The TOML parser gives values without positions, and a configuration error without a line is half an
error. This reads a text that the parser has already accepted and remembers where keys begin; it
knows as much of TOML 1.0 as that takes (headers, dotted and quoted keys, strings that span lines,
inline tables) and judges nothing.
"""

from __future__ import annotations

from bisect import bisect_right

try:
    import tomllib
except ModuleNotFoundError:  # pragma: no cover - Python below 3.11
    import tomli as tomllib  # type: ignore[no-redef, unused-ignore]

Path = tuple[str, ...]

_QUOTES = ('"""', "'''", '"', "'")


def key_path(text: str) -> Path:
    """The parts of a dotted key, quotes resolved: ``a."b.c"`` gives ("a", "b.c").

    Raises ValueError if text is not one TOML key.
    """
    if "\n" in text:
        raise ValueError(f"{text!r} is not one TOML key")
    found: object = tomllib.loads(f"{text} = 0")
    path: list[str] = []
    while isinstance(found, dict):
        (name, found), *more = found.items()
        if more:
            raise ValueError(f"{text!r} is not one TOML key")
        path.append(name)
    return tuple(path)


def key_lines(text: str) -> dict[Path, int]:
    """Path -> line, counted from 1, of every key and every table header in a valid TOML text.

    A key that several lines extend (a table with two headers) keeps its first. Elements of an array
    of tables share the path of the array.
    """
    lines = _Lines(text)
    table: Path = ()
    at = 0
    while at < len(text):
        char = text[at]
        if char in " \t\r\n":
            at += 1
        elif char == "#":
            at = _line_end(text, at)
        elif char == "[":
            end = _key_end(text, at, "]")
            table = key_path(text[at:end].strip("[] \t"))
            lines.note(table, at)
            at = _line_end(text, end)
        else:
            at = _entry(text, at, table, lines)
    return lines.found


class _Lines:
    def __init__(self, text: str) -> None:
        self.found: dict[Path, int] = {}
        self._ends = [at for at, char in enumerate(text) if char == "\n"]

    def note(self, path: Path, at: int) -> None:
        """A key with this path begins at `at`; the tables it implies begin there too, at the latest."""
        line = bisect_right(self._ends, at) + 1
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.found:
                break
            self.found[path[:depth]] = line


def _entry(text: str, at: int, table: Path, lines: _Lines) -> int:
    """Note ``key = value`` that begins at `at`; returns where the value ends."""
    end = _key_end(text, at, "=")
    path = table + key_path(text[at:end].strip())
    lines.note(path, at)
    at = end + 1
    while text[at] in " \t":
        at += 1
    return _value(text, at, path, lines)


def _value(text: str, at: int, path: Path, lines: _Lines) -> int:
    """Skip the value that begins at `at`, noting the keys of inline tables in it."""
    if text[at] in "\"'":
        return _string(text, at)
    if text[at] not in "[{":
        while at < len(text) and text[at] not in ",]}#\n":
            at += 1
        return at
    inline = text[at] == "{"
    at += 1
    while True:
        char = text[at]
        if char in "]}":
            return at + 1
        if char == "#":
            at = _line_end(text, at)
        elif char in " \t\r\n,":
            at += 1
        elif inline:
            at = _entry(text, at, path, lines)
        else:
            at = _value(text, at, path, lines)


def _string(text: str, at: int) -> int:
    """Where the string that begins at `at` ends."""
    quote = next(mark for mark in _QUOTES if text.startswith(mark, at))
    at += len(quote)
    while not text.startswith(quote, at):
        at += 2 if text[at] == "\\" and quote[0] == '"' else 1
    at += len(quote)
    while len(quote) == 3 and text.startswith(quote[0], at):  # up to two quotes may touch the end
        at += 1
    return at


def _key_end(text: str, at: int, stop: str) -> int:
    """Where the key that begins at `at` meets `stop`, outside quotes."""
    while text[at] != stop:
        at = _string(text, at) if text[at] in "\"'" else at + 1
    return at


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end
