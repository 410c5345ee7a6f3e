"""Compile every Triton kernel ahead of time, without a GPU, and report what ptxas says about each.

    python -m kvgpu.kernels.aot [--json -] [--targets 80,90,100,120]

Prints a row per kernel and target: registers, spilled bytes, shared memory, barriers and bytes of code. The exit
status is 1 if any kernel spills, and 2 if one does not compile.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kvgpu.hashing.kvgpu128.speck import ROUNDS
from kvgpu.kernels import find, invariants, leading_run, longest_prefix, prefix_hash, publish, update, validate
from kvgpu.layout import SUM_WORDS, TOKEN_WORDS

TARGETS = (80, 90, 100, 120)
POINTERS = {
    "words": "*i64",
    "records": "*i64",
    "meta": "*i64",
    "keys": "*i64",
    "plan": "*i64",
    "begins": "*i64",
    "ends": "*i64",
    "max_lengths": "*i64",
    "num_tokens": "*i64",
    "violations": "*i64",
    "signal": "*i64",
    "counter": "*i64",
    "groups": "*i32",
    "old": "*i32",
    "new": "*i32",
    "out": "*i64",
    "sums": "*i64",
    "states": "*i64",
    "powers": "*i64",
    "mix_keys": "*i64",
    "extras": "*i64",
    "tile_tokens": "*i64",
    "tile_blocks": "*i64",
    "tile_counts": "*i32",
    "tokens": "*i32",
    "ids": "*i32",
    "hits": "*i32",
    "firsts": "*i32",
    "furthest": "*i64",
    "lengths": "*i32",
    "uses": "*i32",
    "overflow": "*i32",
    "sets": "*i32",
    "leaving": "*i32",
}
NUMBERS = {
    "seed": "i64",
    "count": "i64",
    "num_keys": "i64",
    "longest": "i64",
    "num_buckets": "i64",
    "num_blocks": "i64",
    "null_id": "i32",
    "out_stride": "i64",
    "one_group": "i32",
    "write_ids": "i32",
    "at_once": "i32",
    "phases": "i32",
    "size": "i64",
    "verifies_old": "i32",
    "has_extras": "i32",
    "aligned": "i32",
}


@dataclass
class Build:
    """One kernel compiled for one target."""

    kernel: str
    target: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    barriers: int
    code_bytes: int


def variants() -> list[tuple[str, Any, dict[str, Any], int]]:
    """Return (name, kernel, constants, warps) for everything that is launched."""
    found: list[tuple[str, Any, dict[str, Any], int]] = []
    for words in (2, 4):
        width = f"{8 * words}B"
        lane_a_key = {
            "find": find.find_kernel,
            "probe": longest_prefix.probe_kernel,
            "invariants": invariants.entries_kernel,
            "update": update.update_kernel,
            "validate": validate.validate_kernel,
            "homes": validate.homes_kernel,
        }
        found += [
            (f"{name} {width}", kernel, {"KEY_WORDS": words, "BLOCK": 32}, 1) for name, kernel in lane_a_key.items()
        ]
        constants = {"KEY_WORDS": words, "BLOCK": leading_run.TILE}
        found.append((f"leading run {width}", leading_run.leading_run_kernel, constants, leading_run.WARPS))
    found.append(("decide", longest_prefix.decide_kernel, {"TILE": longest_prefix.DECIDE_TILE}, 1))
    lanes = {"LANES": prefix_hash.TILE}
    sizes = {"SIZE": 16, "SUM": SUM_WORDS, "TOKENS_FROM": TOKEN_WORDS}
    found.append(("values", prefix_hash.values_kernel, lanes | sizes, prefix_hash.WARPS))
    found.append(("carries", prefix_hash.carries_kernel, {"LANES": prefix_hash.CARRIED}, prefix_hash.CARRIED_WARPS))
    found.append(("mix", prefix_hash.mix_kernel, lanes | {"NUM_ROUNDS": ROUNDS}, prefix_hash.WARPS))
    found.append(("publish", publish.publish_kernel, {}, 1))
    return found


def ptxas(capability: int) -> str:
    """Return the path of Triton's assembler for a compute capability: a newer one from 100 on."""
    tools = triton.knobs.nvidia
    newer = getattr(tools, "ptxas_blackwell", tools.ptxas)
    return str((newer if capability >= 100 else tools.ptxas).path)


def compiled_for(kernel: Any, constants: dict[str, Any], warps: int, capability: int) -> Any:
    """Return what Triton makes of a kernel for one compute capability, for example 90."""
    kinds = POINTERS | NUMBERS
    signature = {arg: kinds.get(arg, "constexpr") for arg in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, param in enumerate(kernel.params)
        if param.name in POINTERS and not param.do_not_specialize
    }
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def build(name: str, kernel: Any, constants: dict[str, Any], warps: int, capability: int) -> Build:
    """Compile one kernel for one compute capability, and say what ptxas says."""
    compiled = compiled_for(kernel, constants, warps, capability)
    ptx = compiled.asm["ptx"]
    target = re.search(r"\.target (sm_\w+)", ptx)
    assert target is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        said = subprocess.run(
            [ptxas(capability), "-v", f"--gpu-name={target[1]}", file.name, "-o", "/dev/null"],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None, said
    spills = sum(map(int, re.findall(r"(\d+) bytes spill", said)))
    return Build(
        name,
        target[1],
        int(registers[1]),
        spills,
        int(compiled.metadata.shared),
        len(re.findall(r"bar\.sync", ptx)),
        len(compiled.asm["cubin"]),
    )


def main() -> int:
    """Compile all kernels and print the rows; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(map(str, TARGETS)))
    parser.add_argument("--json", type=Path, help="write the rows as JSON ('-': standard output)")
    options = parser.parse_args()
    rows, failed = [], 0
    for name, kernel, constants, warps in variants():
        for capability in map(int, options.targets.split(",")):
            try:
                row = build(name, kernel, constants, warps, capability)
            except Exception as error:
                failed += 1
                print(f"{name} for sm_{capability} does not compile: {error}", file=sys.stderr)
                continue
            rows.append(row)
            print(
                f"{row.kernel:<18} {row.target:<8} {row.registers:>4} registers "
                f"{row.spill_bytes:>3} B spilled {row.shared_bytes:>5} B shared "
                f"{row.barriers:>2} barriers {row.code_bytes:>6} B code",
                file=sys.stderr if str(options.json) == "-" else sys.stdout,
            )
    if options.json:
        text = json.dumps([asdict(row) for row in rows], indent=1)
        print(text) if str(options.json) == "-" else options.json.write_text(text)
    if failed:
        return 2
    return 1 if any(row.spill_bytes for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
