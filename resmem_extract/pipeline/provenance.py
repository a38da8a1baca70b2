"""What is recorded of a run, so that its numbers can be made again."""

from __future__ import annotations

import platform
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunOptions
from ..images import StimulusSet
from .plan import Plan

if TYPE_CHECKING:
    import torch

    from ..capture import Capture
    from ..models.base import Model

__all__ = ["now", "provenance", "typed_command"]


def provenance(
    model: Model, capture: Capture, stimuli: StimulusSet, plan: Plan, asked: RunOptions
) -> dict[str, Any]:
    """Return the provenance of a run that begins now, as JSON values."""
    return {
        "model": model.name,
        "source": model.source,
        "weights_tag": model.weights_tag,
        "weights_licence": model.licence,
        "seed": model.seed,
        "weights_file_sha256": model.weights.sha256 if model.weights else None,
        "state_dict_sha256": model.state_dict_sha256,
        "preprocessing": model.preprocessing.describe(),
        "exif_orientation": asked.exif_orientation,
        "precision": capture.precision,
        "engine": capture.engine,
        "channels_last": capture.channels_last,
        **asdict(plan),
        "device": str(capture.device),
        "hardware": hardware(capture.device),
        "packages": {**_packages(), **model.packages},
        "command": typed_command(),
        "image_root": stimuli.root,
        "started": now(),
    }


def typed_command() -> str:
    """Return what was typed; ``python -m resmem_extract`` is ``resmem-extract``."""
    program = Path(sys.argv[0])
    as_module = program.parts[-2:] == ("resmem_extract", "__main__.py")
    return shlex.join(["resmem-extract" if as_module else program.name, *sys.argv[1:]])


def hardware(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _packages() -> dict[str, str]:
    """Return the versions of all that has a part in the numbers."""
    names = ("resmem-extract", "torch", "numpy", "pillow", "h5py")
    versions = {name: metadata.version(name) for name in names}
    return {"python": platform.python_version(), **versions}


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
