"""Every key of a TOML file has the line it stands on, however the file is written."""

from __future__ import annotations

import contextlib
import random
import tomllib

import pytest

from grove_core.lines import key_lines, key_path

PLAIN = """\
# a comment with [brackets] and = signs
profile = "residential"

[roles]
transport = [
    "quic",  # [not.a.table]
    "tcp",
]
broadcast = "plumtree"

[plugins.hyparview]   # trailing
active_view = 6
"""


def test_tables_and_keys_of_a_plain_file():
    lines = key_lines(PLAIN)
    assert lines["profile",] == 2
    assert lines["roles",] == 4
    assert lines["roles", "transport"] == 5
    assert lines["roles", "broadcast"] == 9
    assert lines["plugins", "hyparview"] == 11
    assert lines["plugins", "hyparview", "active_view"] == 12


def test_dotted_quoted_and_inline_keys():
    lines = key_lines('a."b=]c".d = 1\nx = { y = 1, z = { w = "}" } }\n["q.r"]\n\'s\' = 2')
    assert lines["a", "b=]c", "d"] == 1
    assert lines["x", "y"] == 2
    assert lines["x", "z", "w"] == 2
    assert lines["q.r", "s"] == 4


def test_strings_that_span_lines_hide_what_looks_like_keys():
    lines = key_lines(
        'a = """\n[no]\nb = 1 \\""" ""\n"""\nc = \'\'\'\nd = 2\n\'\'\'\ne = """x"""""\nf = 1'
    )
    assert set(lines) == {("a",), ("c",), ("e",), ("f",)}
    assert (lines["c",], lines["e",], lines["f",]) == (5, 8, 9)


@pytest.mark.parametrize("bad", ["", "a b", "a\nb", "a.", "= 1\nb", "a = {b"])
def test_key_path_refuses_what_is_not_one_key(bad):
    with pytest.raises(ValueError):  # noqa: PT011 - the parser's own errors count too
        key_path(bad)


def test_any_text_the_parser_accepts_has_a_line_for_every_key():
    seed = random.SystemRandom().getrandbits(32)
    rng, accepted = random.Random(seed), 0
    pieces = [
        *PLAIN.split("\n"),
        "a = 1",
        'b."c d" = "x"',
        "[t]",
        "[[t.u]]",
        "v = {k = [1, {m = 2}]}",
        "'''",
        '"""',
    ]
    for _ in range(3000):
        text = "\n".join(rng.sample(pieces, rng.randint(1, 6)))
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(["", "\n", '"', "'", "[", "]", "#", "=", "\\"]) + text[at:]
        with contextlib.suppress(tomllib.TOMLDecodeError):
            tree = tomllib.loads(text)
            accepted += 1
            lines = key_lines(text)
            assert set(tree) <= {path[0] for path in lines}, f"seed {seed}: {text!r}"
            assert all(1 <= line <= text.count("\n") + 1 for line in lines.values()), f"seed {seed}"
    assert accepted > 300
