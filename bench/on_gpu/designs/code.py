"""What the compilers make of each design of a lookup for compute capability 9.0, without a GPU.

    python bench/on_gpu/designs/code.py

Prints a line for each design and width of keys: registers, bytes of the stack, instructions of the whole code, and how
many keys are in flight on a processor, which registers and the number of blocks limit. Needs Triton and nvcc.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:1] = [str(HERE.parents[2]), str(HERE.parents[1])]

import triton  # noqa: E402
from on_gpu.designs import cooperative  # noqa: E402
from on_gpu.designs.cache_hints import find_with_hints_kernel  # noqa: E402
from on_gpu.designs.persistent_lanes import find_in_turn_kernel  # noqa: E402

from kvgpu.kernels import aot  # noqa: E402
from kvgpu.kernels.find import find_kernel  # noqa: E402

CAPABILITY = 90
WARP = 32
REGISTERS, WARPS, BLOCKS = 65_536, 64, 32
"""Of a processor of this capability, at most."""
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
FUNCTION = re.compile(r"^\s*Function : (\w+)", re.M)
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", re.M)
RESOURCES = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)")

TRITON = {"table's own": (find_kernel, 1), "two keys a lane": (find_kernel, 2)}
TRITON |= {"lanes in turn": (find_in_turn_kernel, 1), "cache hints": (find_with_hints_kernel, 1)}
"""Kernel, and keys of a lane."""


@dataclass(frozen=True)
class Code:
    """One design for one width. instructions: of all its code, without padding."""

    design: str
    key_bytes: int
    registers: int
    stack_bytes: int
    instructions: int
    keys_of_warp: int
    warps_of_block: int

    @property
    def keys_in_flight(self) -> int:
        """On a processor."""
        allocated = -(-self.registers // 8) * 8 * WARP * self.warps_of_block
        blocks = min(BLOCKS, WARPS // self.warps_of_block, REGISTERS // allocated)
        return blocks * self.warps_of_block * self.keys_of_warp


def listed(cubin: bytes) -> dict[str, tuple[int, int, int]]:
    """Registers, bytes of the stack and instructions of each function of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def said(option: str) -> str:
            command = [str(CUOBJDUMP), option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        resources = {
            name: (int(registers), int(stack)) for name, registers, stack in RESOURCES.findall(said("-res-usage"))
        }
        _, *parts = FUNCTION.split(said("-sass"))
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    counts = {name: sum(word != "NOP" for word in INSTRUCTION.findall(text)) for name, text in texts.items()}
    return {name: (*resources[name], counts[name]) for name in counts}


def of_triton() -> Iterator[Code]:
    """Designs in Triton, and the table's own."""
    for key_words in (2, 4):
        for name, (kernel, keys) in TRITON.items():
            constants: dict[str, Any] = {"KEY_WORDS": key_words, "BLOCK": keys * WARP}
            compiled = aot.compiled_for(kernel, constants, 1, CAPABILITY)
            (found,) = listed(compiled.asm["cubin"]).values()
            yield Code(name, 8 * key_words, *found, keys * WARP, 1)


def of_cuda() -> Iterator[Code]:
    """Designs in CUDA."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "code.cubin")
        command = ["nvcc", *cooperative.options(), f"-arch=sm_{CAPABILITY}", "-cubin", "-o", str(result)]
        subprocess.run([*command, str(cooperative.SOURCE)], check=True)
        found = listed(result.read_bytes())
    for key_words in (2, 4):
        code = found[f"find_together_{key_words}"]
        yield Code("lanes together", 8 * key_words, *code, WARP, cooperative.THREADS // WARP)


def main() -> None:
    """Print all."""
    for code in (*of_triton(), *of_cuda()):
        print(
            f"{code.design:<16} {code.key_bytes} bytes {code.registers:>4} registers {code.stack_bytes:>3} B stack "
            f"{code.instructions:>5} instructions for {code.keys_of_warp} keys {code.keys_in_flight:>6,} keys in flight"
        )


if __name__ == "__main__":
    main()
