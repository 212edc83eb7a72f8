"""What every benchmark shares: two ways of doing the same work, timed in turn, and their ratio with its spread."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def paired(name: str, baseline: Callable[[], Any], ours: Callable[[], Any], runs: int = 5) -> list[float]:
    """Time both in turn, `runs` times, so that a busy moment of the machine falls on both; print and return the ratios
    baseline / ours. Warm both up before."""
    pairs = [(seconds(baseline), seconds(ours)) for _ in range(runs)]
    ratios = [base / own for base, own in pairs]
    base, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{name}: baseline {base:.2f} s, ours {own:.2f} s, ratio {statistics.median(ratios):.2f} "
          f"(min {min(ratios):.2f}, max {max(ratios):.2f}, {runs} runs)", flush=True)
    return ratios


def machine() -> str:
    """Processor, threads and load, to be kept beside the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    features = [name for name, there in torch.cpu.get_capabilities().items() if there is True]
    return f"{model}, {torch.get_num_threads()} threads, {' '.join(features)}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
