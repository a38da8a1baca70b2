"""The user cache: where it is, and what was found out once and need not be found out again."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from .errors import WeightsError
from .partial_files import write_text

__all__ = ["CACHE_VARIABLE", "cache_dir", "expanded", "recall", "remember", "remembered"]

CACHE_VARIABLE = "RESMEM_EXTRACT_CACHE"
_REMEMBER_AT_MOST = 1000


def cache_dir() -> Path:
    """Return the user cache of this package; it need not exist.

    ``$RESMEM_EXTRACT_CACHE``, else ``$XDG_CACHE_HOME/resmem_extract``, else
    ``~/.cache/resmem_extract``. `get_weights.sh` follows the same rule.

    Raises
    ------
    WeightsError
        If neither variable is set and the user has no home directory.
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return expanded(own)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "resmem_extract"


def remembered(key: str, compute: Callable[[], str]) -> str:
    """Return what `compute` gave for `key` at some earlier time, here or in another process.

    Values lie in one small JSON file of the user cache. A cache that cannot be read or written
    costs the computation and nothing else. Two processes that write at once are safe; a value of
    one of them may be forgotten.

    Parameters
    ----------
    key : str
        Has to contain all that the value depends on, such as the hash of a file.
    compute : callable
        Called without arguments where the value is not known.
    """
    known = recall(key)
    if known is not None:
        return known
    value = compute()
    remember(key, value)
    return value


def recall(key: str) -> str | None:
    """Return what is remembered under a key, if anything is."""
    return _load_memo().get(key)


def remember(key: str, value: str) -> None:
    """Remember a value; an unwritable cache forgets it."""
    _save_memo({**_load_memo(), key: value})


def expanded(path: str) -> Path:
    """Return the path with ``~`` replaced.

    Raises
    ------
    WeightsError
        If there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: there is no such home directory; set {CACHE_VARIABLE} to a folder"
        ) from error


def _load_memo() -> dict[str, str]:
    """Return what is remembered; nothing where the file is missing, unreadable or damaged."""
    try:
        memo = json.loads((cache_dir() / "hashes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(memo, dict):
        return {}
    return {key: value for key, value in memo.items() if isinstance(value, str)}


def _save_memo(memo: dict[str, str]) -> None:
    """Replace the memo; what cannot be written is forgotten."""
    newest = dict(list(memo.items())[-_REMEMBER_AT_MOST:])
    with contextlib.suppress(OSError):
        folder = cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "hashes.json", json.dumps(newest, indent=0))
