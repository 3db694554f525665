"""The linearizability checker on histories made by hand, in the form of the published Jepsen etcd ones:
one operation per line, process, :invoke / :ok / :fail / :info, :read / :write / :cas, value."""

from __future__ import annotations

from itertools import permutations
from math import inf
from random import Random

import pytest

from grove_core.testing.linearizability import Operation, check, check_object, register


def history(text: str) -> list[Operation]:
    """``0 :invoke :write 3`` …: a process has one operation open; :info leaves it open for ever."""
    waiting: dict[str, tuple[int, tuple[object, ...]]] = {}
    done: list[Operation] = []
    for time, line in enumerate(text.strip().splitlines()):
        process, what, kind, value = line.split(maxsplit=3)
        parsed = None if value == "nil" else [int(x) for x in value.strip("[]").split()]
        if what == ":invoke":
            waiting[process] = (time, (kind[1:], *(parsed or ())))
        elif what == ":ok":
            call, input = waiting.pop(process)
            output: object = None
            if input == ("read",):
                output = parsed[0] if parsed else None
            elif input[0] == "cas":
                output = True
            done.append(Operation("r", input, output, call, time))
        elif what == ":fail":
            call, input = waiting.pop(process)
            if input[0] == "cas":  # the precondition did not hold: an answer, too
                done.append(Operation("r", input, False, call, time))
    lost = [what for what in waiting.values() if what[1] != ("read",)]
    done += [Operation("r", input, None, call, inf) for call, input in lost]
    return done


LINEARIZABLE = {
    "reads see the last write": """
        0 :invoke :write 1
        0 :ok :write 1
        1 :invoke :read nil
        1 :ok :read 1""",
    "a read beside a write may see either": """
        0 :invoke :write 1
        1 :invoke :read nil
        1 :ok :read nil
        2 :invoke :read nil
        2 :ok :read 1
        0 :ok :write 1""",
    "a write without an answer may happen late": """
        0 :invoke :write 1
        0 :ok :write 1
        1 :invoke :write 2
        1 :info :write 2
        2 :invoke :read nil
        2 :ok :read 1
        2 :invoke :read nil
        2 :ok :read 2""",
    "a write without an answer may never happen": """
        0 :invoke :write 2
        0 :info :write 2
        1 :invoke :read nil
        1 :ok :read nil""",
    "exchanges in turn": """
        0 :invoke :write 1
        0 :ok :write 1
        1 :invoke :cas [1 2]
        2 :invoke :cas [2 3]
        2 :ok :cas [2 3]
        1 :ok :cas [1 2]
        0 :invoke :read nil
        0 :ok :read 3""",
    "an exchange that found something else": """
        0 :invoke :cas [1 2]
        0 :fail :cas [1 2]
        0 :invoke :read nil
        0 :ok :read nil""",
}

NOT = {
    "a stale read": """
        0 :invoke :write 1
        0 :ok :write 1
        0 :invoke :write 2
        0 :ok :write 2
        1 :invoke :read nil
        1 :ok :read 1""",
    "back and forth": """
        0 :invoke :write 1
        1 :invoke :read nil
        1 :ok :read 1
        1 :invoke :read nil
        1 :ok :read nil
        0 :ok :write 1""",
    "a lost update": """
        0 :invoke :write 1
        0 :ok :write 1
        1 :invoke :cas [1 2]
        2 :invoke :cas [1 3]
        1 :ok :cas [1 2]
        2 :ok :cas [1 3]""",
    "a value from nowhere": """
        0 :invoke :read nil
        0 :ok :read 7""",
    "a write that happened twice": """
        0 :invoke :write 1
        0 :info :write 1
        1 :invoke :write 2
        1 :ok :write 2
        2 :invoke :read nil
        2 :ok :read 1
        2 :invoke :write 3
        2 :ok :write 3
        2 :invoke :read nil
        2 :ok :read 1""",
}


@pytest.mark.parametrize("name", LINEARIZABLE)
def test_it_accepts(name: str) -> None:
    assert check(history(LINEARIZABLE[name])) == "linearizable"


@pytest.mark.parametrize("name", NOT)
def test_it_refuses(name: str) -> None:
    assert check(history(NOT[name])) == "not linearizable"


def test_keys_are_judged_apart() -> None:
    good, bad = history(LINEARIZABLE["exchanges in turn"]), history(NOT["a stale read"])
    moved = [Operation("other", op.input, op.output, op.call, op.answer) for op in bad]
    assert check(good) == "linearizable"
    assert check(good + moved) == "not linearizable"


def test_what_is_too_hard_is_unknown_and_never_a_pass() -> None:
    writes = [Operation("r", ("write", n), None, 0.0, 1.0) for n in range(40)]
    hard = [*writes, Operation("r", ("read",), -1, 2.0, 3.0)]
    assert check(hard, budget=1_000) == "unknown"
    # … but a key that is decided decides.
    assert check([*hard, *(Operation("k", ("read",), 1, 0.0, 1.0),)], budget=1_000) == "not linearizable"


def brute(operations: list[Operation]) -> bool:
    """Try every order of every choice of open operations."""
    known = [op for op in operations if op.answer < inf]
    open_ = [op for op in operations if op.answer == inf]
    for mask in range(1 << len(open_)):
        chosen = known + [op for bit, op in enumerate(open_) if mask >> bit & 1]
        for order in permutations(chosen):
            if any(b.answer < a.call for at, a in enumerate(order) for b in order[at + 1 :]):
                continue
            state, fits = None, True
            for op in order:
                fits, state = register(state, op.input, op.output, op.answer < inf)
                if not fits:
                    break
            if fits:
                return True
    return False


@pytest.mark.parametrize("seed", range(150))
def test_it_agrees_with_trying_everything(seed: int) -> None:
    rng = Random(f"histories {seed}")
    operations = []
    for _ in range(5):
        call = rng.random()
        answer = call + rng.random() * 0.5 if rng.random() < 0.8 else inf
        kind = rng.randrange(3)
        if kind == 0:
            operations.append(Operation("r", ("read",), rng.choice((None, 1, 2)), call, call + 1.0))
        elif kind == 1:
            operations.append(Operation("r", ("write", rng.randint(1, 2)), None, call, answer))
        else:
            pair = ("cas", rng.choice((None, 1, 2)), rng.randint(1, 2))
            operations.append(Operation("r", pair, rng.random() < 0.5, call, answer))
    found = check_object(operations, register, None, 100_000)
    assert found == ("linearizable" if brute(operations) else "not linearizable"), f"seed {seed}"
