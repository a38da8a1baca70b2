"""Where the commands begin; ``python -m resmem_extract`` is ``resmem-extract``.

Importing the command line takes a moment, in which Ctrl-C would otherwise be a traceback.
"""

from __future__ import annotations

import os
import sys

__all__ = ["extract_main", "main"]


def main() -> None:
    """Run ``resmem-extract``."""
    _run("main")


def extract_main() -> None:
    """Run ``extract``, the short name of ``resmem-extract extract``."""
    _run("extract_main")


def _run(name: str) -> None:
    try:
        from . import cli

        getattr(cli, name)()
    except KeyboardInterrupt:
        os.write(2, b"error: interrupted: nothing was begun\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
