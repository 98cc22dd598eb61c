"""Products of a compiled program, counted: what tests of the layout on devices compare."""

import math
import re

from invad_jax.planning.hlo import Program


def dot_flops(program: Program) -> int:
    """Of all `dot`s, which is where a program for CPUs has its products."""
    total = 0
    for computation, times in program.runs.items():
        for instruction in program.computations[computation]:
            if instruction.opcode == "dot":
                left = _shape(program.by_name[instruction.operands[0]].type)
                dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
                depth = math.prod(left[int(d)] for d in dims.group(1).split(",")) if dims else 1
                total += times * 2 * depth * math.prod(_shape(instruction.type))
    return total


def _shape(type_: str) -> list[int]:
    dimensions = re.search(r"\[([\d,]*)\]", type_).group(1)
    return [int(d) for d in dimensions.split(",") if d]
