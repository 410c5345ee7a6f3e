"""PTX to C++: a kernel as `step(Lane&)`, which `machine.h` calls for one thread after the other."""

from support.ptx.assembly import Assembly, Variable, read
from support.ptx.operands import Operands, c_name, offsets
from support.ptx.statements import Places, Statements


def definition(variable: Variable) -> str:
    """A variable of the file, with what it holds at the start."""
    content = ", ".join(map(str, variable.content)) or "0"
    size = max(1, variable.nbytes)
    return f"alignas({variable.align}) static ptx::u8 {c_name(variable.name)}[{size}] = {{{content}}};"


class Translation:
    """One entry, with the device functions it calls, as C++.

    Args:
        assembly: The file.
        entry: Name of the entry.

    Attributes:
        text: The C++.
        sources: For each number of an instruction, what to call it in a message.
        parameters: Start and size of each parameter, in bytes, in the memory that holds all of them.
        shared_bytes: Shared memory that is declared.

    Raises:
        UnknownInstruction: There is an instruction, or an operand, that is not known.
    """

    def __init__(self, assembly: Assembly, entry: str) -> None:
        functions = [assembly.functions[entry], *(f for f in assembly.functions.values() if not f.is_entry)]
        variables = [*assembly.variables, *(v for f in functions for v in f.variables)]
        shared = [v for v in variables if v.space == "shared"]
        constants = [v for v in variables if v.space in ("global", "const")]
        outside = {v.name: str(start) for v, start in zip(shared, offsets(shared), strict=True)}
        outside |= {v.name: f"reinterpret_cast<ptx::u64>({c_name(v.name)})" for v in constants}
        self.shared_bytes = max((int(outside[v.name]) + v.nbytes for v in shared), default=0)
        given = functions[0].parameters
        self.parameters = [(start, v.nbytes) for v, start in zip(given, offsets(given), strict=True)]
        places = Places()
        scopes = {function.name: Operands(function, outside) for function in functions}
        callees = {function.name: (places.new(), function, scopes[function.name]) for function in functions}
        translated = [Statements(function, scopes[function.name], places, callees) for function in functions]
        self.sources = places.sources
        self.text = "\n".join(
            [
                '#include "memory.h"',
                *map(definition, constants),
                "struct Lane : ptx::Thread {",
                *(scope.fields() for scope in scopes.values()),
                "};",
                "static void step(Lane& R) {",
                "    again: switch (R.place) {",
                *(line for function in translated for line in function.lines),
                "    }",
                "    R.state = ptx::DONE;",
                "}",
                'extern "C" int run(const ptx::Launch* launch, ptx::Report* report) {',
                "    const int status = ptx::machine.run<Lane>(*launch, step);",
                "    *report = ptx::machine.report;",
                "    return status;",
                "}",
                "",
            ]
        )


def translated(ptx: str, entry: str | None = None) -> Translation:
    """Translate an entry, the only one if none is named."""
    assembly = read(ptx)
    names = [name for name, function in assembly.functions.items() if function.is_entry]
    return Translation(assembly, entry or names[0])
