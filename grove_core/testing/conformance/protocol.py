"""What every protocol machine must do, whatever its role: codec, purity, copies, determinism."""

from __future__ import annotations

import copy
import inspect
import sys
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import msgspec

from grove_core.errors import RemoteProtocolError
from grove_core.host import proofs
from grove_core.specs import Codec, Part
from grove_core.testing.purity import assert_pure
from grove_core.testing.village import Village


def tapped(part: Part, messages: list[Any]) -> Part:
    """The same part, whose machines also write down every message they receive (the first 2,000)."""

    def build(*args: Any, **kwargs: Any) -> Any:
        machine = part.spec.build(*args, **kwargs)
        plain = type(machine)

        def on_message(self: Any, ctx: Any, peer: Any, msg: Any) -> None:
            if len(messages) < 2000:
                messages.append(msg)
            plain.on_message(self, ctx, peer, msg)

        machine.__class__ = type(plain.__name__, (plain,), {"__slots__": (), "on_message": on_message})
        return machine

    return Part(msgspec.structs.replace(part.spec, build=build), part.config, part.hosted)


def weight(thing: Any, limit: int = 2_000_000) -> int:
    """How many objects a machine's state holds, containers followed. A growing weight is a leak."""
    seen: dict[int, None] = {}
    waiting, count = [thing], 0
    while waiting and count < limit:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = None
        count += 1
        if isinstance(one, dict):
            waiting += list(one) + list(one.values())
        elif isinstance(one, str | bytes | int | float | type):
            continue
        elif hasattr(one, "__iter__") and hasattr(one, "__len__"):
            waiting += list(one)
        else:
            waiting += [getattr(one, name) for name in _fields(one)]
    return count


def _fields(thing: Any) -> list[str]:
    names = list(getattr(thing, "__dict__", ()))
    for kind in type(thing).__mro__:
        names += [name for name in getattr(kind, "__slots__", ()) if hasattr(thing, name)]
    return names


class ProtocolConformance:
    """Subclassed by the suites of the roles; `part` is what is tested."""

    part: ClassVar[Part]
    seed: ClassVar[int] = 1

    def scene(self, part: Part, seed: int, **world: Any) -> Village:
        """A village in which the protocol has been busy; each role's suite has its own."""
        raise NotImplementedError

    def test_the_spec_names_its_sources_and_its_wire_ids(self) -> None:
        spec = self.part.spec
        assert spec.sources, "say which paper or specification this protocol follows"
        for wire in spec.protocols + spec.rpc:
            assert wire.startswith("/"), f"{wire!r} is not a protocol id"
            assert len(wire) <= 140
        assert not (spec.protocols or spec.rpc) or spec.codec is not None

    def test_the_machine_is_pure(self) -> None:
        module = sys.modules[type(self.part.build()).__module__]
        files = [Path(inspect.getfile(module))]
        beside = files[0].parent / "messages.py"
        if beside.exists():
            files.append(beside)
        assert_pure(*files)

    def test_the_machine_can_be_copied_in_mid_life(self) -> None:
        village = self.scene(self.part, self.seed)
        for ctx in village.alive[0].contexts:
            twin = copy.deepcopy(ctx.machine)
            assert type(twin) is type(ctx.machine)
            assert weight(twin) == weight(ctx.machine)

    def test_one_seed_gives_one_history(self) -> None:
        first, second = (self.scene(self.part, self.seed, trace=True).world.digest() for _ in range(2))
        assert first == second
        assert self.scene(self.part, self.seed + 1, trace=True).world.digest() != first

    def test_every_message_it_sends_survives_its_codec(self) -> None:
        codec = self.part.spec.codec
        if codec is None:
            return
        for msg in self._messages():
            frame = codec.encode(msg)
            assert len(frame) <= codec.max_size
            assert codec.decode(frame) == msg

    def test_the_codec_refuses_mutated_frames_with_one_error(self) -> None:
        codec = self.part.spec.codec
        if codec is None:
            return
        frames = [codec.encode(msg) for msg in self._messages()[:200]] or [b""]
        rng = Random(self.seed)
        for round_ in range(2000):
            frame = bytearray(rng.choice(frames))
            for _ in range(rng.randrange(1, 6)):
                place = rng.randrange(len(frame) + 1)
                match rng.randrange(3):
                    case 0:
                        frame[place : place + 1] = bytes([rng.randrange(256)])
                    case 1:
                        frame[place:place] = rng.randbytes(rng.randrange(1, 9))
                    case _:
                        del frame[place : place + rng.randrange(1, 9)]
            self._accepts_or_refuses(codec, bytes(frame), f"seed {self.seed}, round {round_}")
        self._accepts_or_refuses(codec, bytes(codec.max_size + 1), "one byte beyond max_size")

    def _accepts_or_refuses(self, codec: Codec, frame: bytes, where: str) -> None:
        try:
            msg = codec.decode(frame)
            tuple(proofs(self.part, msg))
        except RemoteProtocolError:
            return
        except Exception as error:
            raise AssertionError(f"{where}: {frame.hex()} raised {error!r}") from error

    def _messages(self) -> list[Any]:
        messages: list[Any] = []
        self.scene(tapped(self.part, messages), self.seed)
        return messages
