"""Which backends can be used here, and their self-tests.

What they need is imported when they are asked for: a package that is broken fails them, not the doctor.
"""

from typing import NamedTuple

from kvgpu.doctor.verdict import Usable
from kvgpu.errors import DeviceError, MissingPackageError

ON_DEVICE = ("triton", "cuda")


class AutoChoice(NamedTuple):
    """What `auto` does here. crossover: blocks from which it asks a GPU, None for never."""

    crossover: int | None
    reason: str

    @property
    def words(self) -> str:
        """For a line of text."""
        if self.crossover is None:
            return f"asks no GPU: {self.reason}"
        return f"triton from {self.crossover:,} blocks on: {self.reason}"


def auto_choice() -> AutoChoice:
    """Ask `auto`. Compiles, measures and waits where there is a GPU.

    Raises:
        ConfigError: `KVGPU_CROSSOVER_BLOCKS` is no number.
    """
    from kvgpu.blocks.state import BlockState
    from kvgpu.index.device.auto import AutoIndex

    index = AutoIndex(BlockState(1))
    return AutoChoice(index.crossover, index.reason)


def usable_backend(name: str) -> Usable:
    """Whether this backend finds what it needs; nothing is compiled yet."""
    if name == "auto":
        return True, "host only" if auto_choice().crossover is None else "host and GPU"
    if name not in ON_DEVICE:
        return True, ""
    from kvgpu.device.block_hash_table import BlockHashTable

    try:
        device = BlockHashTable(1, 16, engine=name).device
    except (DeviceError, MissingPackageError) as error:
        return False, str(error)
    if device.type == "cuda":
        return True, f"on {device}"
    if name == "cuda":
        return (False, "TRITON_INTERPRET=1 puts tables into CPU memory, which CUDA kernels do not reach")
    return True, "in Triton's interpreter, on the CPU"


def backend_test(name: str, interpreter: bool) -> None:
    """A manager beside a plain one; on a device, the table beside a dict first.

    Args:
        name: A backend that can be used.
        interpreter: Triton's is on: less of everything.

    Raises:
        InvariantError: A wrong answer.

    Waits for the device. Seconds in the interpreter, and where something has to be compiled.
    """
    from kvgpu.device.selftest import SelfTest
    from kvgpu.doctor.managers import ManagerTest

    small = interpreter and name in ON_DEVICE
    if name in ON_DEVICE:
        for key_bytes in (16, 32):
            if small:
                SelfTest(name, key_bytes, 60, num_requests=2).run(1)
            else:
                SelfTest(name, key_bytes).run()
    if small:
        ManagerTest(name, 24, 10).run()
    else:
        ManagerTest(name).run()
