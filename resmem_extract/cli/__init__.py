"""The command line: arguments, progress and printing. Nothing else in the package prints.

Each command imports what it needs when it is called, so that help and listings answer at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from .bench import bench_command
from .classify import classify_command
from .encode import encode_command
from .export import export_command
from .extract import extract_command
from .info import info_command
from .merge import merge_command
from .models import models_command, modules_command
from .options import FLAG
from .rsa import rsa_command
from .run import run_command
from .score import score_command
from .split import split_command
from .targets import targets_command
from .terminal import run_app
from .transform import transform_command
from .verify import verify_command
from .weights import weights_app

__all__ = ["extract_main", "main"]

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

app = typer.Typer(no_args_is_help=True, context_settings=_SETTINGS, pretty_exceptions_enable=False)
app.command("extract")(extract_command)
app.command("models")(models_command)
app.command("modules")(modules_command)
app.command("info")(info_command)
app.command("verify")(verify_command)
app.command("split")(split_command)
app.command("merge")(merge_command)
app.command("export")(export_command)
app.command("score")(score_command)
app.command("rsa")(rsa_command)
app.command("encode")(encode_command)
app.command("run")(run_command)
app.command("transform")(transform_command)
app.command("classify")(classify_command)
app.command("targets")(targets_command)
app.command("bench")(bench_command)
app.add_typer(weights_app, name="weights")

extract_app = typer.Typer(context_settings=_SETTINGS, pretty_exceptions_enable=False)
extract_app.command()(extract_command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"resmem-extract {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar=FLAG,
            help="Show the version.",
            callback=_show_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Activations of any module of ResMem and other vision networks, from photographs to HDF5.

    Example: resmem-extract extract --model resmem --module features.5.4 --images photos/ --out a.h5
    """


def main() -> None:
    """Run ``resmem-extract``."""
    run_app(app, "resmem-extract")


def extract_main() -> None:
    """Run ``extract``, the short name of ``resmem-extract extract``."""
    run_app(extract_app, "extract")
