"""On what device and in what precision models run, and which commands never wait for what only their workers need."""

import os
import subprocess
import sys

import pytest
import torch

from readqg import devices
from readqg.config import Compute
from readqg.errors import ConfigError


def test_cpu_and_fp32_are_what_they_say() -> None:
    assert devices.device_and_dtype(Compute(device="cpu", precision="fp32")) == (torch.device("cpu"), torch.float32)
    assert devices.device_and_dtype(Compute(device="cpu", precision="bf16"))[1] == torch.bfloat16


@pytest.mark.parametrize(
    ("processor", "faster"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "avx512_fp16": True, "amx_bf16": True}, True),  # Sapphire Rapids and later
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "avx512_fp16": True, "amx_bf16": False}, False),  # with AMX hidden
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "avx512_fp16": False, "amx_bf16": False}, True),  # Cooper Lake
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),  # Zen 4
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, False),
        ({"bf16": True}, True),  # ARM
        ({}, False),
    ],
)
def test_auto_precision_is_bf16_just_where_it_is_the_faster(
    processor: dict[str, object], faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert devices.device_and_dtype(Compute(device="cpu"))[1] == (torch.bfloat16 if faster else torch.float32)


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
    driver = "import readqg.labeling.label, readqg.ranking, readqg.fusion, readqg.round_trips, readqg.pipeline, readqg.engine.data, sys"
    found = subprocess.run([sys.executable, "-c", f"{driver}; print({{'torch', 'transformers'}} & set(sys.modules))"],
                           capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_the_machine_is_named_with_what_figures_depend_on():
    found = devices.machine(Compute(threads=3, precision="fp32", device="cpu"))
    assert found["threads"] == 3 and found["precision"] == "fp32" and found["processor"]
