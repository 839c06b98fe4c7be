"""Who can reach the Ray that the engine starts: this machine only.

Whoever reaches a port of Ray can run code as its user, and the local runtime asks nobody for a token.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Iterator

import ray
from ray._private import ray_constants

LOOPBACK = "127.0.0.1"
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started inside listens on 127.0.0.1.

    On Linux Ray takes the address of the network card even where 127.0.0.1 is asked for, and its servers then
    listen on every interface (seen with 2.60). The one switch is the constant by which it spares Windows and
    macOS the firewall's questions; it is read from the environment when Ray is imported, too early for us.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def reach(address: str | None, *, dashboard: bool) -> str:
    """The line at the start of a run that says who can reach what it started or joined."""
    if address is not None:
        return f"Workers: the cluster at {address}; whoever reaches its ports can run code there."
    node = str(ray.nodes()[0]["NodeManagerAddress"])
    if not ipaddress.ip_address(node).is_loopback:
        _log.warning(
            "The workers of this run listen on %s: whoever reaches this machine can run code as you; close "
            "its firewall.", node,
        )  # fmt: skip
        return f"Workers: listening on {node}, not on this machine alone."
    url = dashboard_url(expected=dashboard)
    return f"Workers: on this machine only ({node}){f'; dashboard: {url}' if url else ''}."


def dashboard_url(*, expected: bool) -> str:
    """Of the connected Ray's dashboard, "" where none is expected or it did not start."""
    url = ray._private.worker.get_dashboard_url() if expected else None
    return f"http://{url}" if url else ""
