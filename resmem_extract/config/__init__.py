"""Run configurations: what can be asked for, validated when it is asked.

The same records serve the command line, `rx.extract` and the files in ``configs/``.
"""

from .encode import EncodeOptions, EncodeRun
from .extract import (
    ExtractOptions,
    ExtractRun,
    ModelOptions,
    RunOptions,
    ScoreRun,
    TransformOptions,
)
from .reading import Run, read_config, validated
from .rsa import RsaOptions, RsaRun

__all__ = [
    "EncodeOptions",
    "EncodeRun",
    "ExtractOptions",
    "ExtractRun",
    "ModelOptions",
    "RsaOptions",
    "RsaRun",
    "Run",
    "RunOptions",
    "ScoreRun",
    "TransformOptions",
    "read_config",
    "validated",
]
