"""Operands of PTX, in the scope of one function, as expressions of C++."""

import re
from collections.abc import Mapping

from support.ptx.assembly import Function, Variable

SPECIAL = {
    **{f"%tid.{axis}": f"R.at.{axis}" for axis in "xyz"},
    **{f"%ctaid.{axis}": f"R.block->at.{axis}" for axis in "xyz"},
    **{f"%ntid.{axis}": f"ptx::machine.launch.block.{axis}" for axis in "xyz"},
    **{f"%nctaid.{axis}": f"ptx::machine.launch.grid.{axis}" for axis in "xyz"},
    "%laneid": "R.lane",
    "%warpid": "(R.number / ptx::WARP)",
}


class UnknownInstruction(Exception):
    """An instruction of which nothing is known here."""


def c_name(name: str) -> str:
    """A name of PTX as one of C++."""
    return re.sub(r"\W", "_", name)


def offsets(variables: list[Variable]) -> list[int]:
    """Where each variable begins if they lie one behind the other."""
    found, end = [], 0
    for variable in variables:
        found.append(-(-end // variable.align) * variable.align)
        end = found[-1] + variable.nbytes
    return found


def parts(operand: str) -> list[str]:
    """`{a, b}` as a and b; a single operand as itself."""
    return [part.strip() for part in operand.strip("{} ").split(",")]


class Operands:
    """Registers, addresses and numbers of one function; a thread is `R`.

    Args:
        function: The function.
        outside: Address of each variable of the file, as an expression.
    """

    def __init__(self, function: Function, outside: Mapping[str, str]) -> None:
        self._function = function
        self._outside = outside
        self.scope = "of_" + c_name(function.name)
        memory = [v for v in function.variables if v.space in ("local", "param")]
        starts: dict[str, str] = {}
        if function.is_entry:
            given = "reinterpret_cast<ptx::u64>(ptx::machine.launch.parameters)"
            for parameter, start in zip(function.parameters, offsets(function.parameters), strict=True):
                starts[parameter.name] = f"{given} + {start}"
        else:
            memory += function.parameters
        self._memory = {v.name: v for v in memory}
        self._inside = starts | {name: f"reinterpret_cast<ptx::u64>({self.place(name)})" for name in self._memory}

    def fields(self) -> str:
        """Declare what a thread keeps for this function: registers, local variables and arguments of calls."""
        lines = [
            f"ptx::{kind} {c_name(prefix)}" + (f"[{count}];" if count else ";")
            for prefix, (kind, count) in self._function.registers.items()
        ]
        lines += [f"alignas(8) char {c_name(v.name)}[{max(1, v.nbytes)}];" for v in self._memory.values()]
        return "\n        ".join(["    struct {", *lines]) + f"\n    }} {self.scope};"

    def place(self, name: str) -> str:
        """A local variable or an argument, as an array."""
        return f"R.{self.scope}.{c_name(name)}"

    def value(self, operand: str) -> str:
        """An operand that is read, or a register that is written."""
        if operand.startswith("!"):
            return f"!{self.value(operand[1:])}"
        if register := self._register(operand):
            return register
        if operand in SPECIAL:
            return SPECIAL[operand]
        if re.fullmatch(r"-?\d+|0[xX][0-9a-fA-F]+", operand):
            return f"static_cast<ptx::s64>({int(operand, 0) % 2**64}ull)"
        if address := self._inside.get(operand) or self._outside.get(operand):
            return f"({address})"
        raise UnknownInstruction(f"operand {operand}")

    def address(self, operand: str) -> str:
        """`[base+offset]` as a number."""
        base, _, offset = operand.strip("[] ").partition("+")
        return f"static_cast<ptx::u64>({self.value(base.strip())}) + ({int(offset or '0', 0)})"

    def _register(self, name: str) -> str | None:
        found = re.fullmatch(r"(%?[A-Za-z_]+?)(\d+)", name)
        if found and self._function.registers.get(found[1], ("", 0))[1]:
            return f"R.{self.scope}.{c_name(found[1])}[{found[2]}]"
        return self.place(name) if name in self._function.registers else None
