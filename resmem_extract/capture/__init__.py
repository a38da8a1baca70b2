"""From a network and module paths to a stream of named activations. Knows no files."""

from .compiled import CannotCompileError, compile_capture, why_not_compile
from .device import check_precision, pick_device, split_devices, threads_for_each_batch
from .dry_run import Captured, ModuleInfo, list_modules
from .engine import (
    BOUNDS,
    COMPILED_TOLERANCE,
    TOLERANCE,
    Capture,
    deviation,
    in_precision,
    prepare,
)
from .fused import FusedEngine, graph_of
from .graph import GraphEngine, NotTraceableError
from .hooks import HookEngine, Target
from .reduce import has_tokens, reduced_shape

__all__ = [
    "BOUNDS",
    "COMPILED_TOLERANCE",
    "TOLERANCE",
    "CannotCompileError",
    "Capture",
    "Captured",
    "FusedEngine",
    "GraphEngine",
    "HookEngine",
    "ModuleInfo",
    "NotTraceableError",
    "Target",
    "check_precision",
    "compile_capture",
    "deviation",
    "graph_of",
    "has_tokens",
    "in_precision",
    "list_modules",
    "pick_device",
    "prepare",
    "reduced_shape",
    "split_devices",
    "threads_for_each_batch",
    "why_not_compile",
]
