"""A benchmark for the GPU's supervisor whose blocks are toys: they succeed, fail, hang, die or wait, without a GPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

TOY = """
import os, signal, sys, time
from on_gpu.blocks import Block, Step
from on_gpu.tools import LeftOut, Tool
from harness import Row


def described():
    return {"device": "toy", "machine": "toy, driver 1", "versions": "none"}


def clocks():
    return "SM 1 MHz"


def sizes(small):
    return None


def row(name, figure=1.0, goal=2.0):
    return Row(name, "case", "us", figure).stay_below(goal)


def good(sizes):
    yield row("good")


def missed(sizes):
    yield row("missed", 3.0)


def passes(sizes):
    yield "all is well"


def raises(sizes):
    yield row("before it raises")
    raise MemoryError("CUDA out of memory")


def interrupts(sizes):
    yield row("before it interrupts")
    raise KeyboardInterrupt


def lacks(sizes):
    import cbor2_of_nobody
    yield


def lacks_optional(sizes):
    raise ModuleNotFoundError("No module named 'cbor2'", name="cbor2")
    yield


def hangs(sizes):
    yield row("before it hangs")
    time.sleep(1000)


def exits(sizes):
    yield row("before it exits")
    os._exit(7)


def crashes(sizes):
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


def loses_device(sizes):
    sys.modules["__main__"].device_lives = lambda: False
    raise RuntimeError("an illegal memory access")
    yield


def who(sizes):
    yield str(os.getpid())


def slow(sizes):
    for number in range(1000):
        yield row(f"slow {number}")
        time.sleep(0.1)


class Command(Tool):
    def __init__(self, name, code, seconds=20, is_check=True):
        self.name, self._code, self.seconds, self.is_check = name, code, seconds, is_check

    def command(self, rehearse):
        if not self._code:
            raise LeftOut("nothing is installed")
        return [sys.executable, "-c", self._code]


def block(name, seconds=20, is_check=False):
    return Block(name, f"toy:{name}", (), seconds, is_check)


STEPS = [STEPS_HERE]
"""
"""A module of blocks, whose steps are put in place of STEPS_HERE."""


def written(out):
    """Records in the folder so far."""
    try:
        text = (out / "gpu.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def metrics(out):
    """Names of the rows in the folder so far."""
    return [record["metric"] for record in written(out) if "metric" in record]


class Toy:
    """Runs toy blocks in a folder of their own."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        path = os.pathsep.join([str(folder), str(ROOT / "bench"), str(ROOT)])
        caches = ("TRITON_CACHE_DIR", "KVGPU_CACHE_DIR", "CUPY_CACHE_DIR")
        self.environment = os.environ | {"PYTHONPATH": path} | dict.fromkeys(caches, str(folder))

    def start(self, steps, *arguments, source=TOY):
        """The process of a run, just started."""
        (self.folder / "toy.py").write_text(source.replace("STEPS_HERE", steps))
        return subprocess.Popen(
            [sys.executable, "bench/gpu.py", "--blocks", "toy", "--out", str(self.out), *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, steps, *arguments, source=TOY):
        """Exit status, and block -> record of how it went."""
        process = self.start(steps, *arguments, source=source)
        self.printed, self.errors = process.communicate(timeout=120)
        ended = {record["block"]: record for record in written(self.out) if "status" in record}
        return process.returncode, ended

    def wait_for(self, metric):
        """Return when a row is written; an AssertionError if that takes longer than a minute."""
        end = time.monotonic() + 60
        while metric not in metrics(self.out):
            assert time.monotonic() < end
            time.sleep(0.05)
