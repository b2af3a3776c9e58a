"""Transfers between devices, counted in the text of a compiled program."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
    "ragged-all-to-all",
    "collective-broadcast",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|called_computations)="
    r"(\{[^}]*\}|[%\w.\-]+)"
)
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """The transfers of one kind and shape in a program."""

    kind: str
    shape: str  # of the result on one device, such as bf16[1536,8960]
    in_loop: bool
    calls: int  # a call in a loop counts once per iteration
    bytes: int  # in the results of all calls, on one device


def collectives(text: str) -> list[Collective]:
    """Returns the transfers in a compiled program's text, the largest first.

    A loop whose number of iterations is not in the text counts once.
    """
    bodies = dict(_computations(text))
    rounds = _rounds(text, bodies)
    seen: set[str] = set()  # a TPU's asynchronous transfer has several lines
    calls: Counter[tuple[str, str, bool]] = Counter()
    for name, lines in bodies.items():
        times, in_loop = rounds.get(name, (0, False))
        for line in lines:
            match = _COLLECTIVE.search(line)
            channel = _CHANNEL.search(line)
            if match is None or not times:
                continue
            result, kind, started = match.groups()
            # The permutations of a `shard_map` share a channel, with one line each.
            if channel and kind != "collective-permute":
                if channel.group(1) in seen:
                    continue
                seen.add(channel.group(1))
            shapes = _SHAPE.findall(result)
            chosen = shapes
            if started and kind != "all-reduce":
                # Its tuple has the operands, then as many results, then the counters
                # of a permutation.
                arrays = [s for s in shapes if s != ("u32", "")]
                chosen = arrays[len(arrays) // 2 :]
            for dtype, dims in chosen:
                if dtype in _BYTES:
                    calls[kind, f"{dtype}[{dims}]", in_loop] += times
    found = [
        Collective(kind, shape, in_loop, n, n * _size(shape))
        for (kind, shape, in_loop), n in calls.items()
    ]
    return sorted(found, key=lambda c: (-c.bytes, c))


def _size(shape: str) -> int:
    dtype, dims = _SHAPE.findall(shape)[0]
    return _BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yields names and lines of computations.

    Each ends where the next one starts, since a line of a kernel's settings may be a
    brace.
    """
    name, lines = None, []
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            if name is not None:
                yield name, lines
            name, lines = start.group(1), []
        else:
            lines.append(line)
    if name is not None:
        yield name, lines


def _rounds(text: str, bodies: dict[str, list[str]]) -> dict[str, tuple[int, bool]]:
    """Returns how often each computation runs, and whether it runs in a loop."""
    entry = re.search(r"^ENTRY %?([\w.\-]+) ", text, re.MULTILINE)
    rounds: dict[str, tuple[int, bool]] = {}

    def visit(name: str, times: int, in_loop: bool) -> None:
        if name not in bodies:
            return
        before = rounds.get(name, (0, False))
        rounds[name] = before[0] + times, before[1] or in_loop
        for line in bodies[name]:
            loop = " while(" in line
            n = times * (_trips(line, bodies) if loop else 1)
            for group in _CALLED.findall(line):
                for called in group.strip("{}").split(", "):
                    visit(called.lstrip("%"), n, in_loop or loop)

    if entry:
        visit(entry.group(1), 1, False)
    return rounds


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """Returns a loop's iterations, from the compiler's note or the loop's condition."""
    known = _TRIPS.search(line)
    if known:
        return int(known.group(1))
    condition = _CONDITION.search(line)
    lines = bodies.get(condition.group(1), []) if condition else []
    constants = [int(n) for line in lines for n in _CONSTANT.findall(line)]
    return constants[0] if len(constants) == 1 else 1
