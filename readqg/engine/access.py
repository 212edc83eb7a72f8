"""Who may be connected to: tokens, addresses, and the oldest Ray that is trusted.

Whoever reaches a Ray cluster without a token runs code on it. So an address off this machine needs token authentication, and
the token may travel only where it cannot be read on the way: https, or an SSH tunnel, whose end is on loopback. Ray reads the
token itself (RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token); here one that is there is never read, printed or
stored.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit

from readqg.errors import ConfigError

OLDEST_RAY = (2, 54)
"""Before it, a web page open in a browser could delete a cluster's jobs (CVE-2026-27482)."""
_HOW_TO_TUNNEL = (
    "Open a tunnel, `ssh -N -L 8265:127.0.0.1:8265 HEAD`, and give http://127.0.0.1:8265; or put https in front of the cluster."
)
_HOW_TO_TOKEN = (
    "Make one before the cluster starts (`ray get-auth-token --generate`, or a file of your own), start every node with "
    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE, and set both here; cluster/README.md has the steps."
)


_made: set[str] = set()
"""Tokens of `make_token_if_none`. Ray keeps the first token that it reads for as long as the process lives, so it stays."""


def use_token_if_there() -> None:
    """Turn token authentication on for this process where a token is there and nothing says otherwise. Ray reads the mode as it
    is imported: where a program has done that before, its choice stands, or its clusters would want a token that it does not send."""
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ and has_token():
        os.environ["RAY_AUTH_MODE"] = "token"


def make_token_if_none() -> None:
    """A token for the Ray that this process starts, in its environment alone. Where there is none, Ray would write one into
    ~/.ray/auth_token: two commands that start at once overwrite each other's, and other users of the machine may read it."""
    wanted = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if wanted and "RAY_AUTH_TOKEN_PATH" not in os.environ and not has_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        _made.add(os.environ["RAY_AUTH_TOKEN"])


def has_token() -> bool:
    """Whether Ray would find a token; what it says is not looked at."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path).expanduser() if path else Path.home() / ".ray" / "auth_token"
    return file.is_file() and file.stat().st_size > 0


def sends_token() -> bool:
    """Whether it would send one that another cluster may know."""
    if os.environ.get("RAY_AUTH_TOKEN") in _made:
        return False
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and has_token()


def check_version(version: str, where: str) -> None:
    """Raises `ConfigError` for a Ray that is older than `OLDEST_RAY`; `where` names whose it is."""
    found = tuple(int(part) for part in version.split(".")[:2])
    if found < OLDEST_RAY:
        floor = ".".join(map(str, OLDEST_RAY))
        raise ConfigError(f"Ray {version} {where} is older than {floor}, which has a known hole (CVE-2026-27482). Install a newer one.")


def check_address(address: str) -> None:
    """Raises `ConfigError` for an address that the token would reach in the clear, or that needs one and none is there.

    `address`: http://host:port or https://host:port of the jobs server, ray://host:port, or host:port of a cluster."""
    scheme, host = _split(address)
    if is_loopback(host):
        return
    if scheme in ("http", "ray"):
        raise ConfigError(f"{address} is not on this machine, and {scheme}:// sends the token, the data and the code in the clear. "
                          + _HOW_TO_TUNNEL)
    require_token(address)


def require_token(address: str) -> None:
    """Raises `ConfigError` where this process would connect to `address` without a token."""
    if not sends_token():
        raise ConfigError(f"{address} is not on loopback, and there is no token: whoever reaches such a cluster runs code on it. "
                          + _HOW_TO_TOKEN)


def refuse_open(address: str) -> None:
    """Raises `ConfigError`: the cluster at `address` asks nobody for a token."""
    raise ConfigError(f"The cluster at {address} lets in whoever reaches it, without a token. " + _HOW_TO_TOKEN)


def host_of(address: str) -> str:
    """Raises `ConfigError` for what is no address."""
    return _split(address)[1]


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(address: str) -> tuple[str, str]:
    """Scheme ("" where there is none) and host. Raises `ConfigError` for what is no address."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("", "http", "https", "ray"):
        raise ConfigError(f"{address!r} is no address of a cluster. Give http://127.0.0.1:8265 (jobs) or HOST:6379 (a cluster).")
    if parts.username or parts.password:
        raise ConfigError("An address may not hold a user or a password: it would be stored in logs. Use RAY_AUTH_TOKEN_PATH.")
    return parts.scheme, host
