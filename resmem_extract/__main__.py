"""Where the commands begin; ``python -m resmem_extract`` is ``resmem-extract``.

Importing the command line takes a moment, in which Ctrl-C would otherwise be a traceback.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

__all__ = ["extract_main", "main"]


def main() -> None:
    """Run ``resmem-extract``."""
    _loaded().main()


def extract_main() -> None:
    """Run ``extract``, the short name of ``resmem-extract extract``."""
    _loaded().extract_main()


def _loaded() -> ModuleType:
    try:
        from . import cli
    except KeyboardInterrupt:
        os.write(2, b"error: interrupted: nothing was begun\n")
        sys.exit(130)
    return cli


if __name__ == "__main__":
    main()
