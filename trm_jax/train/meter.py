"""What commands spend on a run: seconds of its devices, and the energy that NVIDIA's driver counts (NVML)."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import time
from collections.abc import Callable

from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.paths import AnyPath, append_line

COSTS_FILE = "costs.jsonl"
_EVERY_S = 60.0


@functools.cache
def _counters() -> tuple:
    """(library, handles of the GPUs that this process may use); () without a driver that tells."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2():
            return ()
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(n) for n in range(count.value)] if visible is None else [n.strip() for n in visible.split(",")]
        handles = []
        for name in filter(None, names):
            handle = ctypes.c_void_p()
            if name.isdigit():
                failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(handle))
            else:
                failed = nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
            if failed:
                return ()
            handles.append(handle)
    except (OSError, AttributeError):  # no library, or one that is too old
        return ()
    return (nvml, handles) if handles else ()


def _handles() -> list:
    return _counters()[1] if _counters() else []


def joules() -> float | None:
    """Of all GPUs that this process may use, since the driver was loaded; None where it is not told."""
    total = 0
    nvml, handles = _counters() or (None, ())
    for handle in handles:
        millijoules = ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
            return None
        total += millijoules.value
    return total / 1000 if handles else None


class Meter:
    """Adds what is spent on a run to its COSTS_FILE: once a minute, when it is told to, and at the end.

    A file that cannot be written ends nothing: it is said once.
    """

    def __init__(self, folder: AnyPath, what: str, say: Callable[[str], None] = lambda line: None, devices: int = 0):
        """what: "train", or what else is done with the run; say: takes a line that a person should see.

        devices: how many it takes; 0 for all.
        """
        self._file, self._what, self._say, self._devices = folder / COSTS_FILE, what, say, devices
        self._since, self._joules, self._failed = time.monotonic(), joules(), False

    def tick(self) -> None:
        """Called as often as one likes."""
        if time.monotonic() - self._since >= _EVERY_S:
            self.close()

    def close(self) -> None:
        """Write what was spent since it was last written."""
        import jax

        now, counted = time.monotonic(), joules()
        line = {"what": self._what, "seconds": round(now - self._since, 3)}
        devices = self._devices or jax.device_count()
        line |= {"devices": devices, "device_kind": jax.devices()[0].device_kind}
        # What other GPUs took is not this run's.
        own = jax.default_backend() == "gpu" and devices == len(jax.local_devices()) == len(_handles())
        if own and counted is not None and self._joules is not None:
            line["joules"] = round(counted - self._joules, 1)
        self._since, self._joules = now, counted
        try:
            append_line(self._file, json.dumps(line))
        except (OSError, InputError, OutOfReach) as error:
            if not self._failed:
                self._say(f"note: what this costs is not counted: {error}")
            self._failed = True
