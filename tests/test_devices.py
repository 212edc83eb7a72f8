"""On what device and in what precision models run, and which commands never wait for what only their workers need."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from readqg import devices
from readqg.config import Compute
from readqg.errors import ConfigError


def test_cpu_and_fp32_are_what_they_say() -> None:
    assert devices.device_and_dtype(Compute(device="cpu", precision="fp32")) == (torch.device("cpu"), torch.float32)
    assert devices.device_and_dtype(Compute(device="cpu", precision="bf16"))[1] == torch.bfloat16


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or platform.machine() != "x86_64", reason="reads an x86 processor's flags from /proc/cpuinfo"
)
def test_auto_precision_is_bf16_just_where_the_processor_has_it() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    expected = torch.bfloat16 if {"avx512_bf16", "amx_bf16"} & set(flags) else torch.float32
    assert devices.device_and_dtype(Compute(device="cpu"))[1] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    assert devices.device_and_dtype(Compute())[0] == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device is cuda, but torch .* sees no GPU"):
        devices.device_and_dtype(Compute(device="cuda"))


@pytest.mark.gpu
def test_on_a_gpu_auto_takes_it_and_bf16_from_compute_capability_8_on() -> None:
    device, dtype = devices.device_and_dtype(Compute())
    assert device.type == "cuda"
    assert dtype == (torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float32)


def test_threads_are_those_asked_for_or_the_cores_shared_among_workers() -> None:
    before = torch.get_num_threads()
    try:
        devices.set_threads(Compute(threads=3))
        assert torch.get_num_threads() == 3
        assert devices.set_threads(Compute(workers=10_000)) == torch.get_num_threads() == 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert 1 <= devices.set_threads(Compute()) <= (cores or 1)
    finally:
        torch.set_num_threads(before)


def test_what_only_workers_need_is_imported_there() -> None:
    """Importing transformers takes seconds, and a driver that scores nothing waits for nothing."""
    driver = "import readqg.labeling.label, readqg.ranking, readqg.fusion, readqg.round_trip, readqg.pipeline, readqg.engine.data, sys"
    found = subprocess.run([sys.executable, "-c", f"{driver}; print({{'torch', 'transformers'}} & set(sys.modules))"],
                           capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
