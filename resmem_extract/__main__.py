"""``python -m resmem_extract`` is ``resmem-extract``."""

from .cli import main

main()
