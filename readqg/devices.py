"""On what device, in what precision and with how many threads models run in this process."""

from __future__ import annotations

import logging
import os
import platform
from typing import Any

import torch
import transformers
from joblib import cpu_count
from transformers.utils import logging as transformers_logging

from readqg.config import Compute
from readqg.errors import ConfigError

transformers_logging.disable_progress_bar()  # of loading weights: a second's work, and noise in a job's log
logger = logging.getLogger("readqg")

_BF16_UNITS = ("amx_bf16", "bf16")  # x86 and ARM
_UNITS = (*_BF16_UNITS, "avx512_bf16", "avx512_f", "avx2")


def device_and_dtype(compute: Compute) -> tuple[torch.device, torch.dtype]:
    """The device and the precision of a model in this process. `auto`: a GPU where torch sees one; bf16 where the device
    computes it natively and faster, else fp32 (emulated, bf16 is several times slower than fp32).

    Raises `ConfigError` where a GPU is asked for and none is seen."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ConfigError(
            f"device is cuda, but torch {torch.__version__} sees no GPU here (CUDA_VISIBLE_DEVICES={visible!r}). "
            "Use --compute.device auto or cpu, or install a torch built for your GPU."
        )
    on_gpu = compute.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if compute.precision == "fp32":
        return device, torch.float32
    fast = _gpu_has_bf16() if on_gpu else cpu_has_fast_bf16()
    if compute.precision == "bf16" and not fast:
        logger.warning("precision is bf16, which this %s computes slower than fp32", device.type)
    return device, torch.bfloat16 if fast or compute.precision == "bf16" else torch.float32


def set_threads(compute: Compute) -> int:
    """Set torch's threads in this process to `compute.threads`, or to this machine's cores (as far as this process may
    use them) shared among the workers; the number set. Ray sets its own before, from the CPUs that it counts for a worker."""
    threads = threads_of(compute)
    torch.set_num_threads(threads)
    return threads


def threads_of(compute: Compute) -> int:
    return compute.threads or max(1, cpu_count() // compute.workers)


def machine(compute: Compute) -> dict[str, Any]:
    """What a model worker like this process computes with: `processor`, and the GPU beside it; `workers`; `threads` of each;
    `precision`; versions. Where all of it is the same, figures come out the same. Of a cluster's workers, which may have what its
    driver has not, it says nothing."""
    device, dtype = device_and_dtype(compute)
    names = [processor(), *([torch.cuda.get_device_name()] if device.type == "cuda" else [])]
    return {"processor": " + ".join(names), "workers": compute.workers, "threads": threads_of(compute),
            "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
            "torch": torch.__version__, "transformers": transformers.__version__}


def processor() -> str:
    """What it calls itself, and the first of the units that decide its speed here."""
    there = torch.cpu.get_capabilities()
    unit = next((unit for unit in _UNITS if there.get(unit, False)), "")
    return f"{there.get('cpu_name') or platform.machine()} {unit}".strip()


def _gpu_has_bf16() -> bool:
    # `is_bf16_supported` alone counts emulation in.
    return torch.cuda.is_bf16_supported() and torch.cuda.get_device_capability() >= (8, 0)


def cpu_has_fast_bf16() -> bool:
    """Whether the processor computes bf16 natively and faster than fp32. Intel's with AVX-512's bf16 and fp16 leave bf16 to AMX: where
    a virtual machine hides AMX, their bf16 products take twice as long as fp32's (tests/benchmarks/README.md)."""
    if not torch.backends.mkldnn.is_available():
        return False
    there = torch.cpu.get_capabilities()
    if any(there.get(unit, False) for unit in _BF16_UNITS):
        return True
    left_to_amx = there.get("avx512_fp16", False) and str(there.get("cpu_name")).startswith("Intel")
    return bool(there.get("avx512_bf16", False)) and not left_to_amx
