"""PTX as text, read into functions, instructions and operands; what an instruction means is not known here."""

import re
from dataclasses import dataclass, field

TYPE_BYTES = {f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (8, 16, 32, 64) if (kind, bits) != ("b", 128)}
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
SYMBOL = r"[A-Za-z_$%][\w$]*"
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,\s{\[(][^,{\[(]*")
VARIABLE = re.compile(
    rf"(?:\.(?:visible|extern|weak)\s+)*\.(?P<space>global|const|shared|local|param)\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    rf"\.(?P<type>\w+)\s+(?:\.ptr\s*(?:\.\w+\s*)*?(?:\.align\s+\d+\s+)?)?(?P<name>{SYMBOL})"
    r"(?:\[(?P<count>\d*)\])?(?:\s*=\s*\{(?P<values>[^}]*)\})?"
)
REGISTERS = re.compile(r"\.reg\s+\.(?P<type>\w+)\s+(?P<names>[^;]+)")
LABEL = re.compile(rf"({SYMBOL}):\s*")
LOCATION = re.compile(r"\.loc\s+(\d+)\s+(\d+)[^\n]*")
FILE = re.compile(r"\.file\s+(\d+)\s+\"([^\"]*)\"")


@dataclass
class Variable:
    """A variable or a parameter: where it lies is a matter of its state space."""

    space: str
    name: str
    align: int
    nbytes: int
    content: bytes = b""


@dataclass
class Instruction:
    """One instruction: `@!%p1 ld.global.b32 %r1, [%rd1+4]` has the guard `!%p1` and two operands."""

    opcode: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str = ""
    source: str = ""
    """File and line, where the compiler has said so."""


@dataclass
class Label:
    name: str


@dataclass
class Function:
    """An entry or a device function."""

    name: str
    is_entry: bool
    parameters: list[Variable] = field(default_factory=list)
    registers: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Prefix -> type and number; a number of 0 is one register of this name."""
    variables: list[Variable] = field(default_factory=list)
    body: list[Instruction | Label] = field(default_factory=list)


@dataclass
class Assembly:
    """Functions of a file, and its variables."""

    functions: dict[str, Function]
    variables: list[Variable]


def as_variable(text: str) -> Variable:
    """Read a declaration."""
    found = VARIABLE.match(" ".join(text.split()))
    assert found, text
    size = TYPE_BYTES[found["type"]]
    values = [int(value, 0) for value in (found["values"] or "").split(",") if value.strip()]
    content = b"".join((value % (1 << 8 * size)).to_bytes(size, "little") for value in values)
    count = int(found["count"] or 0) if found["count"] is not None else 1
    return Variable(found["space"], found["name"], int(found["align"] or size), size * count, content)


def as_instruction(text: str, source: str) -> Instruction:
    """Read one statement, without its semicolon."""
    guard = ""
    if text.startswith("@"):
        guard, text = text[1:].split(None, 1)
    opcode, _, rest = text.partition(" ")
    operands = tuple(operand.strip() for operand in OPERAND.findall(rest) if operand.strip())
    return Instruction(tuple(opcode.split(".")), operands, guard, source)


def statements(text: str) -> list[tuple[int, str]]:
    """Split a body at its semicolons, labels and scopes; each with its place in the text."""
    found, place = [], 0
    for part in text.split(";"):
        at = place + len(part) - len(part.lstrip())
        part = part.lstrip()
        while part and (match := LABEL.match(part) or re.match(r"[{}]\s*", part)):
            if match[0][0] not in "{}":
                found.append((at, match[1] + ":"))
            at, part = at + match.end(), part[match.end() :]
        if part:
            found.append((at, " ".join(part.split())))
        place += len(text[place:].split(";", 1)[0]) + 1
    return found


def read_body(function: Function, text: str, files: dict[str, str]) -> None:
    """Read what stands between the braces of a function."""
    locations = [(m.start(), f"{files.get(m[1], '?')}:{m[2]}") for m in LOCATION.finditer(text)]
    text = LOCATION.sub(lambda m: " " * len(m[0]), text)
    source, number = "", 0
    for place, statement in statements(text):
        while number < len(locations) and locations[number][0] <= place:
            source, number = locations[number][1], number + 1
        if statement.endswith(":"):
            function.body.append(Label(statement[:-1]))
        elif found := REGISTERS.match(statement):
            for name in found["names"].split(","):
                prefix, _, count = name.strip().rstrip(">").partition("<")
                function.registers[prefix] = (found["type"], int(count or 0))
        elif VARIABLE.match(statement):
            function.variables.append(as_variable(statement))
        elif not statement.startswith("."):  # .pragma
            function.body.append(as_instruction(statement, source))


def closing_brace(text: str, start: int) -> int:
    """Where the scope ends that was opened before `start`."""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise ValueError("a brace is not closed")


def read(ptx: str) -> Assembly:
    """Read a file that Triton or nvcc has written."""
    text = COMMENT.sub("", ptx)
    files = {m[1]: m[2].rsplit("/", 1)[-1] for m in FILE.finditer(text)}
    result = Assembly({}, [])
    head = re.compile(
        rf"(?:\.(?:visible|weak|extern)\s+)*\.(entry|func)\s+(?:\([^)]*\)\s*)?({SYMBOL})\s*(?:\(([^)]*)\))?([^{{;]*)([{{;])"
    )
    end = 0
    outside = ""
    while found := head.search(text, end):
        outside += text[end : found.start()]
        kind, name, parameters, _, opening = found.groups()
        end = found.end()
        if opening == ";":
            continue
        close = closing_brace(text, end)
        function = Function(name, kind == "entry")
        function.parameters = [as_variable(one) for one in (parameters or "").split(",") if one.strip()]
        read_body(function, text[end:close], files)
        result.functions[name] = function
        end = close + 1
    result.variables = [as_variable(m[0]) for m in VARIABLE.finditer(outside)]
    return result
