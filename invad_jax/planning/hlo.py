"""What one device does, counted from the text of a compiled program; loops as often as they run.

Read next: `plan.py`, which prints it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

BETWEEN_SLICES = "to other slices"
"""In the place of a collective: what leaves a device for the network of the data centre. XLA sums
within a slice first, so that each device sends its own part alone."""
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16}  # the others end in their number of bits
_SHAPE = re.compile(r"\b(pred|bf16|[fsuc]\d+|f8\w+)\[([\d,]*)\](?:\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?")
_FREE = frozenset(
    """
    parameter constant tuple get-tuple-element bitcast while call conditional after-all iota
    partition-id replica-id
    """.split()
)


@dataclass(frozen=True)
class Instruction:
    """One line of a program."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    text: str
    is_root: bool

    def bytes(self, only_hbm: bool = False) -> int:
        """Of the result; arrays that XLA keeps on the chip are marked S(1)."""
        return sum(
            _bytes(*shape.groups())
            for shape in _SHAPE.finditer(self.type)
            if not (only_hbm and "S(1)" in shape.group(0))
        )


class Traffic(NamedTuple):
    """Of one kind of collective, on one device, in one run of the program."""

    times: int
    bytes: int
    """That leave the device, each collective as a ring."""
    dtypes: tuple[str, ...]


class Program:
    """A parsed program: computations by name, and how often each runs."""

    def __init__(self, text: str):
        """Parses `compiled.as_text()`."""
        self.computations: dict[str, list[Instruction]] = {}
        self.by_name: dict[str, Instruction] = {}
        entry, current = "", ""
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = header.group(2)
                self.computations[current] = []
                entry = current if header.group(1) else entry
            elif current and (match := _INSTRUCTION.match(line)):
                root, name, type_, opcode, rest = match.groups()
                operands = tuple(re.findall(r"%([\w.\-]+)", _in_parentheses(rest)))
                instruction = Instruction(name, type_, opcode, operands, line, bool(root))
                self.computations[current].append(instruction)
                self.by_name[name] = instruction
        self.runs: dict[str, int] = defaultdict(int)
        self.fused: set[str] = set()
        self._visit(entry, 1)

    def _visit(self, computation: str, times: int) -> None:
        self.runs[computation] += times
        for instruction in self.computations[computation]:
            if instruction.opcode in ("reduce", "all-reduce", "reduce-scatter", "sort", "map"):
                continue  # what they apply is arithmetic
            rounds = self._rounds(instruction) if instruction.opcode == "while" else 1
            for group in _CALLED.findall(instruction.text):
                for name in re.findall(r"[\w.\-]+", group):
                    if name in self.computations:
                        if instruction.opcode == "fusion":
                            self.fused.add(name)
                        self._visit(name, times * rounds)

    def _rounds(self, loop: Instruction) -> int:
        """How often a loop runs: as XLA says, or the bound that its condition compares with."""
        if known := re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.text):
            return int(known.group(1))
        condition = self.computations[_attribute("condition", loop.text)]
        bounds = [bound for i in condition if (bound := _constant(i)) is not None]
        counters = [
            int(_attribute("index", i.text)) for i in condition if i.opcode == "get-tuple-element"
        ]
        if len(bounds) != 1 or len(counters) != 1:
            raise ValueError(f"{loop.name}: how often it runs is not known")
        root = next(i for i in self.computations[_attribute("body", loop.text)] if i.is_root)
        increment = self.by_name[root.operands[counters[0]]]
        steps = [_constant(self.by_name[name]) for name in increment.operands]
        step = next((step for step in steps if step), 1) if increment.opcode == "add" else 1
        return -(-bounds[0] // step)  # XLA unrolls some of its loops over devices

    def collectives(self) -> dict[str, Traffic]:
        """By kind.

        One that XLA spreads over several fusions keeps its channel. Its middle pieces may stand in
        a loop that it overlaps with; its first and last run as often as it does, the least often.
        """
        found: dict[tuple[str, str], tuple[int, int, tuple[str, ...]]] = {}
        for computation, times in self.runs.items():
            for instruction in self.computations[computation]:
                kind = _collective(instruction)
                if kind:
                    channel = re.search(r"channel_id=(\d+)", instruction.text)
                    key = (kind, channel.group(1) if channel else instruction.name)
                    new = (times, times * self._sent(kind, instruction), self._dtypes(instruction))
                    found[key] = min(found.get(key, new), new)
        result: dict[str, Traffic] = {}
        for (kind, _), (times, sent, dtypes) in sorted(found.items()):
            old = result.get(kind, Traffic(0, 0, ()))
            names = tuple(sorted({*old.dtypes, *dtypes}))
            result[kind] = Traffic(old.times + times, old.bytes + sent, names)
        return result

    def _dtypes(self, instruction: Instruction) -> tuple[str, ...]:
        types = " ".join(self.by_name[name].type for name in instruction.operands)
        return tuple(sorted({shape.group(1) for shape in _SHAPE.finditer(types)}))

    def _sent(self, kind: str, instruction: Instruction) -> int:
        size = sum(self.by_name[name].bytes() for name in instruction.operands)
        if kind in ("collective-permute", BETWEEN_SLICES):
            return size
        group = _group_size(instruction.text)
        factor = {"all-gather": group - 1, "all-reduce": 2 * (group - 1) / group}
        return round(size * factor.get(kind, (group - 1) / group))

    def memory_bytes(self) -> int:
        """Read from and written to HBM: operands and results of what is not fused away."""
        return sum(
            times * self._memory_bytes(instruction)
            for computation, times in self.runs.items()
            if computation not in self.fused
            for instruction in self.computations[computation]
        )

    def _memory_bytes(self, instruction: Instruction) -> int:
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            return 0
        if instruction.opcode == "dynamic-slice":
            return 2 * instruction.bytes(only_hbm=True)
        if instruction.opcode == "dynamic-update-slice":
            return 2 * self.by_name[instruction.operands[1]].bytes(only_hbm=True)
        if instruction.opcode == "fusion":
            return self._fusion_bytes(instruction)
        operands = sum(self.by_name[n].bytes(True) for n in instruction.operands)
        # A start names its operand again in its result.
        return operands + (0 if instruction.opcode.endswith("-start") else instruction.bytes(True))

    def _fusion_bytes(self, fusion: Instruction) -> int:
        body = self.computations[_attribute("calls", fusion.text)]
        parameters = [i for i in body if i.opcode == "parameter"]
        parameters.sort(key=lambda i: int(re.findall(r"parameter\((\d+)\)", i.text)[0]))
        updates = [i for i in body if i.opcode == "dynamic-update-slice"]
        total = 0
        for parameter, operand in zip(parameters, fusion.operands, strict=True):
            size = self.by_name[operand].bytes(only_hbm=True)
            users = [i for i in body if parameter.name in i.operands]
            if size and users and all(i.opcode == "dynamic-slice" for i in users):
                size = min(size, sum(i.bytes() for i in users))  # a layer of a stack
            elif users and all(i in updates and i.operands[0] == parameter.name for i in users):
                size = 0  # written in place
            total += size
        result = fusion.bytes(only_hbm=True)
        if updates and result:
            result = min(result, sum(self.by_name[i.operands[1]].bytes() for i in updates))
        return total + result


def _collective(instruction: Instruction) -> str:
    """The kind of a collective; empty for what is none."""
    if instruction.opcode == "send" and "xla_megascale_runtime" in instruction.text:
        return BETWEEN_SLICES
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else ""


def _attribute(name: str, text: str) -> str:
    match = re.search(rf"\b{name}=%?([\w.\-]+)", text)
    assert match is not None, (name, text)
    return match.group(1)


def _constant(instruction: Instruction) -> int | None:
    match = re.search(r" constant\((\d+)\)", instruction.text)
    return int(match.group(1)) if match else None


def _bytes(dtype: str, dimensions: str) -> int:
    bits = _BITS.get(dtype) or (8 if dtype.startswith("f8") else int(dtype[1:]))
    return math.prod(int(d) for d in dimensions.split(",") if d) * bits // 8


def _in_parentheses(text: str) -> str:
    """Up to the parenthesis that closes the one before `text`."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:i]
    return text


def _group_size(text: str) -> int:
    """Devices that take part in one collective, in any of XLA's three notations."""
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes.group(1)))
        return math.prod(int(sizes[name]) for name in re.findall(r"\w+", axes.group(2)))
    if table := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", text):
        return int(table.group(2))
    if groups := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return len(groups.group(1).split(","))
    raise ValueError(f"no replica groups in: {text.strip()[:200]}")
