"""Objects that users name as ``package.module:name``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UnknownModelError, nearest

__all__ = ["import_object"]


def import_object(name: str, what: str) -> Any:
    """Return the object that ``package.module:name`` names; the current folder is searched first.

    Raises
    ------
    UnknownModelError
        If there is no such module or no such object in it; errors inside the module are its own.
    """
    module_name, _, path = name.partition(":")
    try:
        with _current_folder_first():
            found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and needs another one that is not
        raise UnknownModelError(
            f"{what} {name!r}: no module {error.name!r} here or installed; expected "
            "package.module:name"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            close = nearest(part, [text for text in dir(found) if not text.startswith("_")])
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UnknownModelError(f"{what} {name!r}: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Let modules of the current folder be imported, as ``python -m`` does, and only for now.

    For what they import later the folder stays at the end, where it hides no installed package.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
