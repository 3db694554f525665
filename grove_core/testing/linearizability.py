"""Whether a history of concurrent operations could have happened one after the other.

Wing and Gong's search, with Lowe's memo of (operations linearised, state) ("Testing for
linearizability", 2017), as in porcupine. Histories are split by key first, since a history is
linearizable exactly if each object's part is (Herlihy, Wing 1990).

An operation whose outcome is unknown stays open for ever: it may have happened at any time after its
call, or not at all. One that definitely failed is left out by whoever writes the history down. The
search has a budget; a history too hard for it is "unknown", which is never a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from math import inf
from typing import Any, Literal

import msgspec

Verdict = Literal["linearizable", "not linearizable", "unknown"]


class Operation(msgspec.Struct, frozen=True):
    """One operation: asked at `call`, answered at `answer` (inf: never).

    input, output: in the words of the model. output means nothing while answer is inf.
    """

    key: Hashable
    input: Any
    output: Any
    call: float
    answer: float = inf


Step = Callable[[Any, Any, Any, bool], tuple[bool, Any]]
"""(state, input, output, is_known) -> whether this output may come of it, and the state afterwards."""


def register(state: Any, input: Any, output: Any, is_known: bool) -> tuple[bool, Any]:
    """A register that begins as None: ("read",) -> value, ("write", v), ("cas", old, new) -> bool."""
    kind = input[0]
    if kind == "read":
        return (not is_known or output == state), state
    if kind == "write":
        return True, input[1]
    assert kind == "cas", f"a register cannot {kind!r}"
    fits = state == input[1]
    return (not is_known or output == fits), (input[2] if fits else state)


def check(
    history: Iterable[Operation], step: Step = register, initial: Any = None, budget: int = 200_000
) -> Verdict:
    """The verdict on a history. budget: steps of the search per key.

    States must be hashable. A key found not linearizable decides, whatever is unknown of others.
    """
    by_key: dict[Hashable, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    verdict: Verdict = "linearizable"
    for operations in by_key.values():
        found = check_object(operations, step, initial, budget)
        if found == "not linearizable":
            return found
        if found == "unknown":
            verdict = found
    return verdict


def check_object(operations: Sequence[Operation], step: Step, initial: Any, budget: int) -> Verdict:
    """The verdict on one object's history."""
    # A list of calls and answers in order of time, answers of one moment after its calls, linked so
    # that taking an operation out and putting it back are O(1). Place 0 is the head.
    moments = [(op.call, 0, number) for number, op in enumerate(operations)]
    moments += [(op.answer, 1, number) for number, op in enumerate(operations)]
    moments.sort()
    count = len(moments)
    after = [*range(1, count + 1), 0]
    before = [0, *range(count)]
    call_at, answer_at = [0] * len(operations), [0] * len(operations)
    whose = [0] * (count + 1)
    is_call = [False] * (count + 1)
    for place, (_, kind, number) in enumerate(moments, 1):
        whose[place], is_call[place] = number, kind == 0
        (call_at if kind == 0 else answer_at)[number] = place

    def lift(number: int) -> None:
        for place in (call_at[number], answer_at[number]):
            after[before[place]] = after[place]
            before[after[place]] = before[place]

    def unlift(number: int) -> None:
        for place in (answer_at[number], call_at[number]):
            after[before[place]] = place
            before[after[place]] = place

    known = sum(1 for op in operations if op.answer < inf)
    state, done = initial, 0
    seen = {(0, state)}
    stack: list[tuple[int, Any]] = []
    place = after[0]
    while known:
        budget -= 1
        if budget < 0:
            return "unknown"
        number = whose[place]
        if place and is_call[place]:
            op = operations[number]
            fits, following = step(state, op.input, op.output, op.answer < inf)
            marked = done | 1 << number
            if fits and (marked, following) not in seen:
                seen.add((marked, following))
                stack.append((number, state))
                state, done = following, marked
                lift(number)
                known -= op.answer < inf
                place = after[0]
            else:
                place = after[place]
            continue
        # An answer: its operation should have happened by now. Undo the last choice.
        if not stack:
            return "not linearizable"
        number, state = stack.pop()
        done &= ~(1 << number)
        known += operations[number].answer < inf
        unlift(number)
        place = after[call_at[number]]
    return "linearizable"
