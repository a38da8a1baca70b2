"""``python -m resmem_extract.thingsvision``: thingsvision's command line, with our networks."""

from __future__ import annotations

import argparse

from ..errors import ResmemExtractError
from .plugin import register

__all__ = ["main"]


def main() -> None:
    """Run ``thingsvision`` after `register`; what it prints and how it exits is its own."""
    try:
        register()
        from thingsvision.thingsvision import main as command_line

        command_line()
    except ResmemExtractError as error:
        argparse.ArgumentParser().exit(error.exit_code, f"error: {error}\n")


if __name__ == "__main__":
    main()
