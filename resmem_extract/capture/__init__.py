"""From a network and module paths to a stream of named activations. Knows no files."""

from .device import pick_device, threads_for_each_batch
from .dry_run import Captured, ModuleInfo, list_modules
from .engine import TOLERANCE, Capture, deviation, prepare
from .graph import GraphEngine, NotTraceableError
from .hooks import HookEngine, Target
from .reduce import reduced_shape

__all__ = [
    "TOLERANCE",
    "Capture",
    "Captured",
    "GraphEngine",
    "HookEngine",
    "ModuleInfo",
    "NotTraceableError",
    "Target",
    "deviation",
    "list_modules",
    "pick_device",
    "prepare",
    "reduced_shape",
    "threads_for_each_batch",
]
