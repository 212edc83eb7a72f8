"""`readqg submit`: a stage as a job on a running cluster; its log here, as it grows.

The job belongs to the cluster: whoever looks at it may go (Ctrl-C, a closed laptop) and look again with `--attach`. Jobs go
through Ray's jobs server, so nothing but its one port has to be reached; `access` says from where.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from readqg.config import SubmitConfig
from readqg.engine import access, cluster
from readqg.errors import ConfigError, RunError, first_line

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient  # isort: skip  (after `cluster`, which sets what Ray reads at import)

log = logging.getLogger("readqg")

SCRIPTS = {"import": "import_corpus"}
"""Stages whose script in `jobs/` is called otherwise."""
_LEFT_BEHIND = ["/tests", "/.ci", "*.parquet"]
_PATIENCE_S = 60.0


def submit(config: SubmitConfig) -> dict[str, Any]:
    """Submit a stage, or attach to a job, and stay until it has ended; returns its id, status and exit code.

    Raises `ConfigError` for an address that is not safe, `RunError` where the cluster does not answer."""
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):  # which tell of each step
        logging.getLogger(name).setLevel(logging.ERROR)
    _without_a_proxy(config.address)
    client = _client(config.address)
    job = config.attach or _submitted(client, config)
    again = f"readqg submit --attach {job} --address {config.address}"
    try:
        details = _follow(client, job)
    except KeyboardInterrupt as stop:
        log.warning("\nThe job goes on. To look again:  %s\nTo end it:       ray job stop --address %s %s", again, config.address, job)
        return {"job": job, "status": "not waited for", "exit_code": getattr(stop, "exit_code", 130)}
    return _ended(details, job, again)


def _without_a_proxy(address: str) -> None:
    """Requests would send what goes to a tunnel on this machine, the token too, to the proxy that HTTP_PROXY names."""
    host = access.host_of(address)
    if access.is_loopback(host):
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))


def entrypoint(stage: str, flags: tuple[str, ...]) -> str:
    """The command that the cluster runs."""
    return shlex.join(["python", "-m", f"jobs.{_script(stage)}", *flags])


def _script(stage: str) -> str:
    return SCRIPTS.get(stage, stage.replace("-", "_"))


def _client(address: str) -> JobSubmissionClient:
    access.check_address(address)
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--address {address}: jobs are submitted over http. Give http://127.0.0.1:8265 or https://HOST.")
    access.check_version(cluster.ray.__version__, "here")
    try:
        with _no_other_address():
            client = JobSubmissionClient(address)
        server = client._do_request("GET", "/api/version").json()["ray_version"]
        is_open = _open(address)
    except Exception as error:  # Ray's client lets requests' errors and bare ones through
        raise RunError(f"{address} does not answer as a Ray cluster: {first_line(error)}. Is it running, the tunnel open, and is the "
                       "token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH=FILE) that of the cluster?") from None
    access.check_version(server, f"on {address}")
    if is_open:
        if not access.is_loopback(access.host_of(address)):
            access.refuse_open(address)
        log.warning("%s wants no token: any program and any web page on this machine can run code there.", address)
    return client


def _open(address: str) -> bool:
    """Whether the jobs of the cluster are shown to one who gives no token."""
    import requests

    return requests.get(f"{address.rstrip('/')}/api/jobs/", timeout=30, allow_redirects=False).status_code == 200


@contextmanager
def _no_other_address() -> Iterator[None]:
    """Ray's client prefers these to the address it is given, which is the one that was checked."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _submitted(client: JobSubmissionClient, config: SubmitConfig) -> str:
    if not config.stage:
        raise ConfigError("Name a stage to submit, or a job to look at with --attach.")
    environment = _environment(config)
    command = entrypoint(config.stage, config.flags)
    log.info("submitting: %s", command)
    since = time.monotonic()
    while True:
        try:
            job: str = client.submit_job(entrypoint=command, runtime_env=environment)
            log.info("job %s", job)
            return job
        except Exception as error:
            young = "No available agent" in str(error)  # a head that has just started answers before it takes jobs
            if not young or time.monotonic() - since > _PATIENCE_S:
                raise RunError(f"{config.address} did not take the job: {first_line(error)}.") from error
        time.sleep(2.0)


def _environment(config: SubmitConfig) -> dict[str, Any]:
    """The runtime environment: the checkout, and what the file says (cluster/runtime_env.yaml)."""
    folder = Path(config.working_dir)
    if not (folder / "jobs" / "__init__.py").exists():
        raise ConfigError(f"--working-dir {folder} is no checkout of ReadQG (no jobs/ in it). Give the folder that was cloned.")
    if not (folder / "jobs" / f"{_script(config.stage)}.py").exists():
        raise ConfigError(f"{config.stage!r} is no stage that runs as a job: it has no script in jobs/.")
    given = yaml.safe_load(Path(config.runtime_env).read_text()) if config.runtime_env else {}
    if not isinstance(given, dict):
        raise ConfigError(f"--runtime-env {config.runtime_env}: expected field: value lines, found {type(given).__name__}.")
    if any("TOKEN" in name.upper() for name in given.get("env_vars", {})):
        raise ConfigError(f"--runtime-env {config.runtime_env} holds a token in env_vars, where the cluster's dashboard shows it. "
                          "Put it into a file on the nodes.")
    return {"excludes": _LEFT_BEHIND, **given, "working_dir": str(folder)}


class _Patience:
    """With a head or a tunnel that is away for a moment."""

    def __init__(self) -> None:
        self.answered()

    def answered(self) -> None:
        self._since = time.monotonic()

    def try_again(self, error: Exception) -> None:
        """Raises `RunError` where there has been no answer for too long; waits a little else."""
        if time.monotonic() - self._since > _PATIENCE_S:
            raise RunError(f"The cluster has not answered for {_PATIENCE_S:.0f} s: {first_line(error)}. The job may go on; look again with "
                           "--attach.") from error
        time.sleep(2.0)


def _follow(client: JobSubmissionClient, job: str) -> JobDetails:
    """Print the job's log as it grows, until the job ends; over a connection that breaks, too."""
    printed, patience = _Printed(), _Patience()
    while True:
        try:
            details: JobDetails = client.get_job_info(job)
            patience.answered()
            asyncio.run(_print_log(client, job, printed, patience))
            if details.status.is_terminal():
                return details
        except RuntimeError as error:
            if "does not exist" in str(error):
                raise RunError(f"There is no job {job} on this cluster; `ray job list` names those there are.") from None
            patience.try_again(error)
        except (OSError, aiohttp.ClientError) as error:  # those of requests are the former
            patience.try_again(error)
        time.sleep(0.5)


@dataclass
class _Printed:
    """Characters of the log that are printed."""

    number: int = 0


async def _print_log(client: JobSubmissionClient, job: str, printed: _Printed, patience: _Patience) -> None:
    """What of the log is not printed yet, as it comes."""
    seen = 0
    async for chunk in client.tail_job_logs(job):
        patience.answered()
        fresh = chunk[max(0, printed.number - seen):]
        seen += len(chunk)
        if fresh:
            sys.stdout.write(fresh)
            sys.stdout.flush()
            printed.number = seen


def _ended(details: JobDetails, job: str, again: str) -> dict[str, Any]:
    done = details.status == JobStatus.SUCCEEDED
    if not done:
        log.error("job %s: %s. %s\nIts log again: %s", job, details.status.value, details.message or "", again)
    return {"job": job, "status": str(details.status.value), "exit_code": 0 if done else details.driver_exit_code or 1}
