"""Statements of one PTX function as C++: a thread is a state machine that stops at numbered places.

An instruction that only computes becomes a call of the function of its name in `instructions.h`; here stand those that
access memory, branch, or are computed by a warp together.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from support.ptx.assembly import TYPE_BYTES, Function, Instruction, Label
from support.ptx.operands import Operands, UnknownInstruction, c_name, parts

HERE = Path(__file__).resolve().parent
RESERVED = {"and", "or", "xor", "not"}
NO_OPERATION = {
    "membar",
    "fence",
    "prefetch",
    "prefetchu",
    "nanosleep",
    "discard",
    "applypriority",
    "createpolicy",  # of caches, which there are none of: no access reads it
}
STRONG = {"volatile", "relaxed", "acquire", "release"}
PRIVATE = {"param", "local", "const"}


@cache
def known() -> frozenset[str]:
    """Names of the functions in `instructions.h`."""
    text = (HERE / "instructions.h").read_text()
    return frozenset(re.findall(r"^template <class \w+(?:, class \w+)?> [\w<>]+ (\w+)\(", text, re.M))


class Places:
    """Numbers of the places where threads stop, and of the instructions that messages name."""

    def __init__(self) -> None:
        self.count = 0
        self.sources: list[str] = []

    def new(self) -> int:
        """Another place."""
        self.count += 1
        return self.count - 1


class Statements:
    """Translates one function.

    Args:
        function: The function.
        operands: Its operands.
        places: Shared by all functions of a kernel.
        callees: Functions that can be called -> first place, parameters and scope.

    Attributes:
        lines: The C++.
    """

    def __init__(
        self, function: Function, operands: Operands, places: Places, callees: dict[str, tuple[int, Function, Operands]]
    ) -> None:
        self._function, self._operands, self._places, self._callees = function, operands, places, callees
        self._value = operands.value
        self._guard = ""
        self.lines: list[str] = []
        self._stop_at(callees[function.name][0])
        for statement in function.body:
            if isinstance(statement, Label):
                self.lines.append(f"    {self._label(statement.name)}:;")
            else:
                self._instruction(statement)

    def _emit(self, code: str) -> None:
        self.lines.append(f"        {code}")

    def _stop_at(self, place: int) -> None:
        self.lines.append(f"    case {place}:;")

    def _label(self, name: str) -> str:
        return f"L_{c_name(self._function.name)}_{c_name(name)}"

    def _instruction(self, it: Instruction) -> None:
        handlers: dict[str, Callable[[Instruction], None]] = {
            "bra": self._branch,
            "ret": self._return,
            "exit": self._exit,
            "call": self._call,
            "ld": self._load,
            "st": self._store,
            "atom": self._atomic,
            "red": self._atomic,
            "shfl": self._shuffle,
            "redux": self._reduce,
            "ldmatrix": self._load_matrices,
            "vote": self._vote,
            "bar": self._barrier,
            "barrier": self._barrier,
        }
        if it.opcode[0] in NO_OPERATION:
            return
        try:
            self._guard = f"if ({self._value(it.guard)}) " if it.guard else ""
            handlers.get(it.opcode[0], self._compute)(it)
        except UnknownInstruction as error:
            raise UnknownInstruction(f"{'.'.join(it.opcode)} ({it.source}): {error}") from None

    def _compute(self, it: Instruction) -> None:
        kinds = [part for part in it.opcode if part in TYPE_BYTES or part == "pred"]
        name = "_".join(part for part in it.opcode if part not in kinds)
        if name == "mov" and "{" in "".join(it.operands):
            return self._move_parts(it, kinds[0])
        name += "_" if name in RESERVED else ""
        if name not in known():
            raise UnknownInstruction("nothing is known of it")
        target, *sources = it.operands
        types = ", ".join(f"ptx::{kind}" for kind in kinds)
        result = f"ptx::{name}<{types}>({', '.join(map(self._value, sources))})"
        return self._emit(f"{self._guard}{self._value(target)} = {result};")

    def _move_parts(self, it: Instruction, kind: str) -> None:
        target, source = it.operands
        pieces = parts(target if target.startswith("{") else source)
        bits = 8 * TYPE_BYTES[kind] // len(pieces)
        if target.startswith("{"):
            moves = [
                f"{self._value(piece)} = static_cast<ptx::u{bits}>(whole >> {bits * i});"
                for i, piece in enumerate(pieces)
                if piece != "_"
            ]
            self._emit(f"{self._guard}{{ const ptx::{kind} whole = {self._value(source)}; {' '.join(moves)} }}")
        else:
            whole = " | ".join(
                f"static_cast<ptx::{kind}>(static_cast<ptx::u{bits}>({self._value(piece)})) << {bits * i}"
                for i, piece in enumerate(pieces)
            )
            self._emit(f"{self._guard}{self._value(target)} = {whole};")

    # The way of a thread.

    def _number(self, it: Instruction) -> None:
        """Let the thread remember at which instruction it is."""
        self._places.sources.append(f"{'.'.join(it.opcode)} at {it.source or self._function.name}")
        self._emit(f"R.instruction = {len(self._places.sources) - 1};")

    def _pause(self, it: Instruction) -> None:
        """Let others go on before an access, or not."""
        place = self._places.new()
        condition = f"{self._value(it.guard)} && " if it.guard else ""
        self._emit(f"if ({condition}ptx::machine.pauses()) {{ R.place = {place}; return; }}")
        self._stop_at(place)
        self._number(it)

    def _wait(self, it: Instruction, call: str) -> None:
        """Stop until others have come as far."""
        place = self._places.new()
        self._number(it)
        self._emit(f"{self._guard}{{ {call}; R.place = {place}; return; }}")
        self._stop_at(place)

    def _branch(self, it: Instruction) -> None:
        self._number(it)
        self._emit(f"{self._guard}{{ if (ptx::endless(R)) return; goto {self._label(it.operands[0])}; }}")

    def _exit(self, it: Instruction) -> None:
        self._emit(f"{self._guard}{{ R.state = ptx::DONE; return; }}")

    def _return(self, it: Instruction) -> None:
        if self._function.is_entry:
            return self._exit(it)
        return self._emit(f"{self._guard}{{ R.place = R.calls[--R.depth]; goto again; }}")

    def _call(self, it: Instruction) -> None:
        names = [operand.strip("() ") for operand in it.operands]
        if names[0] not in self._callees or self._guard or len(names) > 2:
            raise UnknownInstruction("only functions of the file that return nothing are called")
        first, callee, scope = self._callees[names[0]]
        for parameter, given in zip(callee.parameters, parts(names[1]) if len(names) > 1 else [], strict=True):
            target, source = scope.place(parameter.name), self._operands.place(given)
            self._emit(f"std::memcpy({target}, {source}, {parameter.nbytes});")
        back = self._places.new()
        self._number(it)
        self._emit("if (R.depth == ptx::MAX_CALLS) return ptx::machine.fail(ptx::TOO_MANY_CALLS, R);")
        self._emit(f"R.calls[R.depth++] = {back}; R.place = {first}; goto again;")
        self._stop_at(back)

    # Memory.

    def _place_of(self, it: Instruction, address: str, count: int) -> str:
        """Where an access goes; one that others can see may be preceded by a pause."""
        if not PRIVATE & set(it.opcode):
            self._pause(it)
        where = self._operands.address(address)
        if "shared" in it.opcode:
            return f"ptx::shared_place(R, {where}, {TYPE_BYTES[it.opcode[-1]] * count})"
        return f"ptx::{'private' if PRIVATE & set(it.opcode) else 'global'}_place({where})"

    @staticmethod
    def _kind(it: Instruction, access: str) -> str:
        return f"ptx::{'STRONG' if STRONG & set(it.opcode) else 'PLAIN'}_{access}"

    def _load(self, it: Instruction) -> None:
        targets = parts(it.operands[0])
        place = self._place_of(it, it.operands[1], len(targets))
        moves = [f"{self._value(target)} = v[{i}];" for i, target in enumerate(targets) if target != "_"]
        read = f"ptx::{it.opcode[-1]} v[{len(targets)}]; ptx::read(R, {place}, {self._kind(it, 'READ')}, v);"
        self._emit(f"{self._guard}{{ {read} {' '.join(moves)} }}")

    def _store(self, it: Instruction) -> None:
        kind = f"ptx::{it.opcode[-1]}"
        sources = parts(it.operands[1])
        place = self._place_of(it, it.operands[0], len(sources))
        values = ", ".join(f"static_cast<{kind}>({self._value(source)})" for source in sources)
        write = f"ptx::write(R, {place}, {self._kind(it, 'WRITE')}, v);"
        self._emit(f"{self._guard}{{ const {kind} v[] = {{{values}}}; {write} }}")

    def _atomic(self, it: Instruction) -> None:
        kind = f"ptx::{it.opcode[-1]}"
        target, address, *values = it.operands if it.opcode[0] == "atom" else ("_", *it.operands)
        operation = next((part for part in it.opcode[1:] if f"atom_{part}" in known()), None)
        if operation is None:
            raise UnknownInstruction("nothing is known of it")
        new = f"ptx::atom_{operation}<{kind}>({', '.join(['old', *map(self._value, values)])})"
        place = self._place_of(it, address, 1)
        exchange = f"ptx::exchange<{kind}>(R, {place}, [&]({kind} old) {{ return {new}; }});"
        self._emit(f"{self._guard}{'' if target == '_' else self._value(target) + ' = '}{exchange}")

    # What lanes do together.

    def _together(self, it: Instruction, what: str, mask: str, *operands: str) -> None:
        self._wait(it, f"ptx::wait_together(R, {', '.join([f'ptx::{what}', self._value(mask), *operands])})")

    def _shuffle(self, it: Instruction) -> None:
        target, value, distance, clamp, mask = it.operands
        target, _, flag = target.partition("|")
        self._together(it, f"shfl<ptx::{it.opcode[2].upper()}>", mask, *map(self._value, (value, distance, clamp)))
        self._emit(f"{self._guard}{self._value(target.strip())} = static_cast<ptx::u32>(R.result);")
        if flag:
            self._emit(f"{self._guard}{self._value(flag.strip())} = R.flag;")

    def _reduce(self, it: Instruction) -> None:
        kind = f"ptx::{it.opcode[-1]}"
        fold = it.opcode[2] + ("_" if it.opcode[2] in RESERVED else "")
        target, value, mask = it.operands
        self._together(it, f"redux<{kind}, ptx::{fold}<{kind}>>", mask, f"static_cast<{kind}>({self._value(value)})")
        self._emit(f"{self._guard}{self._value(target)} = static_cast<{kind}>(R.result);")

    def _load_matrices(self, it: Instruction) -> None:
        if not {"m8n8", "b16"} <= set(it.opcode) or "trans" in it.opcode:
            raise UnknownInstruction("only matrices as they lie are known")
        targets = parts(it.operands[0])
        self._together(it, f"ldmatrix<{len(targets)}>", "-1", self._operands.address(it.operands[1]))
        for i, target in enumerate(targets):
            self._emit(f"{self._guard}{self._value(target)} = R.pieces[{i}];")

    def _vote(self, it: Instruction) -> None:
        target, value, mask = it.operands
        self._together(it, f"vote_{it.opcode[2]}", mask, self._value(value))
        self._emit(f"{self._guard}{self._value(target)} = R.result;")

    def _barrier(self, it: Instruction) -> None:
        if "warp" in it.opcode:
            return self._together(it, "sync_warp", it.operands[0])
        if len(it.operands) != 1 or {"arrive", "red"} & set(it.opcode):
            raise UnknownInstruction("only barriers of all threads are known")
        return self._wait(it, f"ptx::wait_barrier(R, {self._value(it.operands[0])})")
