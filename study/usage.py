"""What the machine holds at this moment: memory and GPUs, for the screen."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import pynvml


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU of the machine, whoever uses it."""

    busy: int
    """Percent of the last moment in which it computed anything."""
    used: int
    """Bytes, as `total`."""
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Memory in bytes, and the GPUs in the driver's order (NVML's: all, not the visible ones)."""

    used: int
    total: int
    gpus: tuple[Gpu, ...] = ()


def now() -> Usage:
    """Of the machine that this process runs on; waits for no GPU."""
    memory = psutil.virtual_memory()
    return Usage(used=memory.total - memory.available, total=memory.total, gpus=_gpus())


def _gpus() -> tuple[Gpu, ...]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: no GPU
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_gpu(handle) for handle in handles)
    except pynvml.NVMLError:  # one that is about to fail, or a slice that may not be asked: not worth a run
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
    return Gpu(busy=int(busy), used=int(memory.used), total=int(memory.total))


def words(usage: Usage) -> str:
    """ "memory 3.1 of 25.2 GB · GPU 0 81 %, 40.1 of 141.0 GB"."""
    parts = [f"memory {_of(usage.used, usage.total)}"]
    parts += [f"GPU {i} {gpu.busy} %, {_of(gpu.used, gpu.total)}" for i, gpu in enumerate(usage.gpus)]
    return " · ".join(parts)


def _of(used: int, total: int) -> str:
    return f"{used / 1e9:.1f} of {total / 1e9:.1f} GB"


def gigabytes(number: int) -> str:
    """ "1.2 GB"."""
    return f"{number / 1e9:.1f} GB"
