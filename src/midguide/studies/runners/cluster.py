"""A Ray cluster: at an address, or one of this machine that starts while this process reads the study."""

from __future__ import annotations

import logging
import os
import socket
import threading
from types import ModuleType
from typing import Any

from midguide.errors import ConfigError, reason

CONNECT_SECONDS = 5.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # by default 15: any other process would come first
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_preload_python_modules": "midguide.studies.runners.remote",  # torch loads while no job is there yet
}
HINT = "`ray status` on that machine says whether it runs; versions of Ray and Python must be the same"


class Cluster:
    """A connection that a thread makes and holds; `ray` waits for it.

    The thread lives as long as the connection: on Linux what a thread has started ends with it. Ray leaves the signals
    of this process alone, since no thread but the main one could take them.

    Args:
        address: of the cluster; "" or `local` for one of this machine that ends with the connection.
        workers: cores of a cluster of this machine; by default all.

    Raises:
        ConfigError: If Ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str, workers: int | None) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise ConfigError("the runner `ray` needs Ray", hint="pip install 'midguide[ray]'") from error
        address = address or os.environ.get("RAY_ADDRESS", "")
        self._ray, self._place = ray, address or "this machine"
        self._options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address in ("", "local"):
            own: dict[str, Any] = {"num_cpus": workers} if workers else {}
            self._options |= {"address": "local", "include_dashboard": False, **own}
        else:
            _check_answers(address)
            self._options["address"] = address
        self._error: Exception | None = None
        self._connected, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="ray", daemon=True)
        self._thread.start()

    def _hold(self) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)  # which would say that this is not the main thread
        try:
            self._ray.init(**self._options)
        except Exception as error:  # raised by `ray`
            self._error = error
        self._connected.set()
        self._over.wait()
        self._ray.shutdown()

    @property
    def ray(self) -> ModuleType:
        """Ray, connected.

        Raises:
            ConfigError: If it could not connect.
        """
        self._connected.wait()
        if isinstance(self._error, ConnectionError | RuntimeError | ValueError | TimeoutError):
            raise ConfigError(f"no Ray cluster at {self._place}: {reason(self._error)}", hint=HINT) from self._error
        if self._error is not None:
            raise self._error
        return self._ray

    def close(self) -> None:
        """End the connection, and a cluster that it started."""
        self._over.set()
        self._thread.join()


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself would try for a minute."""
    place = address.removeprefix("ray://")
    if place == "auto":
        return
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"--address takes HOST:PORT or ray://HOST:PORT, got {address!r}", hint="as `ray start` prints"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nothing answers at {address}: {getattr(error, 'strerror', None) or error}",
            hint="`ray start --head` on that machine starts a cluster and prints its address",
        ) from error
