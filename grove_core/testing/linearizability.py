"""Whether a history of concurrent operations could have happened one after the other.

Wing and Gong's search, with Lowe's memo of (operations linearised, state) ("Testing for
linearizability", 2017), as in porcupine. Histories are split by key first, since a history is
linearizable exactly if each object's part is (Herlihy, Wing 1990).

An operation whose outcome is unknown stays open for ever: it may have happened at any time after its
call, or not at all. One that definitely failed is left out by whoever writes the history down. The
search has a budget; a history too hard for it is "unknown", which is never a pass.

Such operations are what makes histories hard, beside those that took long to answer: each may be
nearly anywhere. What makes that rare:

* An answered operation that fits and changes nothing may as well happen now: no choice.
* Who must answer first is tried first, operations without an answer last.
* Of these, one that does not change the state need not have happened; and neither need one without
  which the very next operation would do the same: leaving it out leaves an order that explains as much.
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
    ops = sorted(operations, key=lambda op: (op.answer, op.call))
    left = answered = sum(1 for op in ops if op.answer < inf)
    # Answered operations in order of their answers, in a list linked so that taking one out and putting
    # it back are O(1); place 0 is the head, operation n is at n + 1. Those without an answer follow.
    after = [*range(1, answered + 1), 0]
    before = [0, *range(answered)]
    soonest = [inf] * (answered + 2)
    """The earliest call from a place on."""
    for place in range(answered, 0, -1):
        soonest[place] = min(soonest[place + 1], ops[place - 1].call)
    state, done = initial, 0
    seen: set[Any] = set()
    stack: list[tuple[int, Any]] = []
    """What was chosen: operation, and the state before it."""
    place = after[0]
    while left:
        budget -= 1
        if budget < 0:
            return "unknown"
        limit = ops[after[0] - 1].answer  # by then one of those that are called by then has happened
        # 1. Whoever fits and changes nothing may as well happen now.
        if place == after[0]:
            at = place
            while at and soonest[at] <= limit:
                op = ops[at - 1]
                if op.call <= limit and step(state, op.input, op.output, True) == (True, state):
                    break
                at = after[at]
            else:
                at = 0
            if at:
                stack.append((at - 1, state))
                done |= 1 << (at - 1)
                after[before[at]], before[after[at]] = after[at], before[at]
                left -= 1
                place = after[0]
                continue
        # 2. Who must answer first is tried first; those without an answer last.
        number = -1
        while 0 < place <= answered:
            if soonest[place] > limit:
                place = 0
                break
            if ops[place - 1].call <= limit:
                number = place - 1
                break
            place = after[place]
        if number < 0:
            place = max(place, answered + 1)
            while place <= len(ops):
                if ops[place - 1].call <= limit and not done >> (place - 1) & 1:
                    number = place - 1
                    break
                place += 1
        if number < 0:
            while stack:
                number, state = stack.pop()
                done &= ~(1 << number)
                at = number + 1
                if number < answered:
                    after[before[at]] = before[after[at]] = at
                    left += 1
                    op = ops[number]
                    if step(state, op.input, op.output, True) == (True, state):
                        continue  # nothing else was to be tried there
                    place = after[at] or answered + 1
                else:
                    place = at + 1
                break
            else:
                return "not linearizable"
            continue
        op = ops[number]
        is_lost = number >= answered
        fits, following = step(state, op.input, op.output, not is_lost)
        if fits and following != state:
            was_lost = bool(stack) and stack[-1][0] >= answered
            marked = done | 1 << number
            key = (marked, following, state) if is_lost else (marked, following)
            idle = was_lost and step(stack[-1][1], op.input, op.output, not is_lost) == (True, following)
            if key not in seen and not idle:
                seen.add(key)
                stack.append((number, state))
                state, done = following, marked
                if not is_lost:
                    at = number + 1
                    after[before[at]], before[after[at]] = after[at], before[at]
                    left -= 1
                place = after[0]
                continue
        place = (after[place] or answered + 1) if not is_lost else place + 1
    return "linearizable"
