"""On what device, in what precision and with how many threads models run in this process."""

from __future__ import annotations

import logging
import os

import torch
from joblib import cpu_count
from transformers.utils import logging as transformers_logging

from readqg.config import Compute
from readqg.errors import ConfigError

transformers_logging.disable_progress_bar()  # of loading weights: a second's work, and noise in a job's log
logger = logging.getLogger("readqg")

_NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def device_and_dtype(compute: Compute) -> tuple[torch.device, torch.dtype]:
    """The device and the precision of a model in this process. `auto`: a GPU where torch sees one; bf16 where the device
    computes it natively, else fp32 (emulated, bf16 is several times slower than fp32).

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
    native = _gpu_has_bf16() if on_gpu else cpu_has_bf16()
    if compute.precision == "bf16" and not native:
        logger.warning("precision is bf16, which this %s does not compute natively: slower than fp32", device.type)
    return device, torch.bfloat16 if native or compute.precision == "bf16" else torch.float32


def set_threads(compute: Compute) -> int:
    """Set torch's threads in this process to `compute.threads`, or to this machine's cores (as far as this process may
    use them) shared among the workers; the number set. Ray sets its own before, from the CPUs that it counts for a worker."""
    threads = compute.threads or max(1, cpu_count() // compute.workers)
    torch.set_num_threads(threads)
    return threads


def _gpu_has_bf16() -> bool:
    # `is_bf16_supported` alone counts emulation in.
    return torch.cuda.is_bf16_supported() and torch.cuda.get_device_capability() >= (8, 0)


def cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(key, False) for key in _NATIVE_BF16)
