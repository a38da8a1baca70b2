"""What a figure was measured on; every benchmark prints it beside its figures."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

__all__ = ["describe", "one_line"]

PACKAGES = ("torch", "numpy", "h5py", "pillow")


def describe() -> dict[str, str]:
    """Return processor, cores, memory, system and versions, as texts."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GiB",
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def one_line() -> str:
    """Return the same in one line."""
    about = describe()
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", *PACKAGES))
    return f"{about['cores']} cores, {about['memory']}, {about['processor']}; {versions}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    features = [
        f
        for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
        if any(f in line for line in lines)
    ]
    return f"{named[0] if named else platform.machine()} ({', '.join(features)})"
