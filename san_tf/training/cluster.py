"""Reads TF_CONFIG, without TensorFlow: the workers that train together, and this worker's number.

    TF_CONFIG='{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'

The `chief` job, or else the first worker, is the chief. Only the chief writes files.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from san_tf.errors import UserError

VARIABLE = "TF_CONFIG"
EXAMPLE = (
    f"{VARIABLE}='"
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    "' on the first machine, and index 1 on the second"
)
_JOBS = ("chief", "worker")


@dataclass(frozen=True)
class Cluster:
    """The workers that train together.

    Attributes:
        addresses: `host:port` of each worker in TensorFlow's order, the chief's first.
        index: index of this process in `addresses`.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this process writes checkpoints, logs and results."""
        return self.index == 0


def read_cluster(environment: Mapping[str, str] | None = None) -> Cluster:
    """Read TF_CONFIG.

    Args:
        environment: environment variables; `os.environ` if None.

    Raises:
        UserError: TF_CONFIG is missing or malformed; the message says what is wrong and shows an example.
    """
    text = (os.environ if environment is None else environment).get(VARIABLE, "")
    if not text.strip():
        raise UserError(
            f"--strategy multiworker needs the environment variable {VARIABLE}, which is not set: {EXAMPLE}."
        )
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"is not JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict):
        raise _wrong('has no "cluster" that lists the workers')
    addresses = _addresses(config["cluster"])
    task = config.get("task")
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _wrong('has no "task" with "type" and "index" to say which worker this is')
    return Cluster(addresses, _index(config["cluster"], task))


def _addresses(jobs: dict[str, Any]) -> tuple[str, ...]:
    for job, members in jobs.items():
        if job not in _JOBS:
            raise _wrong(f"has the job {job!r}, but only {' and '.join(_JOBS)} are supported")
        if not isinstance(members, list) or not members:
            raise _wrong(f'does not list the addresses of "{job}" as ["host:port", ...]')
    if len(jobs.get("chief", [None])) > 1:
        raise _wrong("has more than one chief")
    addresses = [address for job in _JOBS for address in jobs.get(job, [])]
    if not addresses:
        raise _wrong('has no "worker" in its "cluster"')
    for address in addresses:
        host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise _wrong(f"has the address {address!r}, which is not host:port")
    repeated = [address for address in addresses if addresses.count(address) > 1]
    if repeated:
        raise _wrong(f"lists {repeated[0]} twice")
    return tuple(addresses)


def _index(jobs: dict[str, Any], task: dict[str, Any]) -> int:
    job, index = task["type"], task["index"]
    if job not in jobs:
        raise _wrong(f"says that this is a {job!r}, but its cluster has none")
    if isinstance(index, bool) or not isinstance(index, int):
        raise _wrong(f"has the task index {index!r}, which is not a whole number")
    if not 0 <= index < len(jobs[job]):
        raise _wrong(f"has the task index {index}, but {job} goes from 0 to {len(jobs[job]) - 1}")
    return index + (len(jobs.get("chief", [])) if job == "worker" else 0)


def _wrong(what: str) -> UserError:
    return UserError(f"{VARIABLE} {what}; set it to, for example, {EXAMPLE}.")


def check_port(cluster: Cluster) -> None:
    """Check that this worker can listen on its port; TensorFlow would only log a failure.

    Raises:
        UserError: the port is in use, or not allowed.
    """
    port = int(cluster.addresses[cluster.index].rpartition(":")[2])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            # Like TensorFlow's server, accept a port whose last connections are still closing.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
    except OSError as error:
        raise UserError(
            f"Worker {cluster.index} cannot listen on port {port} ({error.strerror}); end what uses it, or "
            f"give the worker another port in every {VARIABLE}."
        ) from error
