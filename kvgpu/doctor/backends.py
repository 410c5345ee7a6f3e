"""Backends that can be used here, and their self-tests.

What a backend needs is imported only when it is examined: a broken package fails the backend, not the doctor.
"""

from typing import NamedTuple

from kvgpu.doctor.verdict import Usable
from kvgpu.errors import DeviceError, MissingPackageError

ON_DEVICE = ("triton", "cuda")


class AutoChoice(NamedTuple):
    """What `auto` does here. crossover: number of blocks from which it uses a GPU; None for never."""

    crossover: int | None
    reason: str

    @property
    def words(self) -> str:
        """The choice as a line of text."""
        if self.crossover is None:
            return f"uses no GPU: {self.reason}"
        return f"triton from {self.crossover:,} blocks on: {self.reason}"


def auto_choice() -> AutoChoice:
    """Return what `auto` chooses. Compiles, measures and waits if there is a GPU.

    Raises:
        ConfigError: `KVGPU_CROSSOVER_BLOCKS` is not a number.
    """
    from kvgpu.blocks.state import BlockState
    from kvgpu.index.device.auto import AutoIndex

    index = AutoIndex(BlockState(1))
    return AutoChoice(index.crossover, index.reason)


def usable_backend(name: str) -> Usable:
    """Return whether this backend finds what it needs; compiles nothing."""
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
        return (False, "TRITON_INTERPRET=1 puts tables into CPU memory, which CUDA kernels cannot access")
    return True, "in Triton's interpreter, on the CPU"


def backend_test(name: str, interpreter: bool) -> None:
    """Test a backend: compare a manager with a plain one; on a device, first compare the table with a dict.

    Waits for the device. Takes seconds in the interpreter, and if code has to be compiled.

    Args:
        name: A backend that can be used.
        interpreter: Whether Triton's interpreter is on; the tests are smaller then.

    Raises:
        InvariantError: An answer is wrong.
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
