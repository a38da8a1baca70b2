"""``run``: any job from a validated file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .encode import run_encode
from .extract import run_extract
from .options import JsonOption, QuietOption
from .rsa import run_rsa
from .score import run_score

__all__ = ["run_command"]


def run_command(
    config: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file; see configs/.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Do what a configuration file asks; paths in it are relative to the current folder.

    Example: resmem-extract run configs/resmem_features.yaml
    """
    from ..config import EncodeRun, ExtractRun, RsaRun, read_config

    run = read_config(config)
    if isinstance(run, ExtractRun):
        run_extract(run, as_json=as_json, quiet=quiet)
    elif isinstance(run, RsaRun):
        run_rsa(run, as_json=as_json, quiet=quiet)
    elif isinstance(run, EncodeRun):
        run_encode(run, as_json=as_json, quiet=quiet)
    else:
        run_score(run, as_json=as_json, quiet=quiet)
