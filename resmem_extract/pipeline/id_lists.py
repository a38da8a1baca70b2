"""Text files of ids of images; apart from arrays, so that an extraction does not load SciPy."""

from __future__ import annotations

from pathlib import Path

from ..errors import RequestError

__all__ = ["read_id_list"]


def read_id_list(path: Path) -> tuple[str, ...]:
    """Read ids, one a line; blanks around them do not count.

    Raises
    ------
    RequestError
        If it cannot be read, or has none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RequestError(
            f"{path} cannot be read: {reason}; expected image ids, one a line"
        ) from error
    # Not splitlines, which also parts at characters that an id may hold.
    ids = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not ids:
        raise RequestError(f"{path} is empty; expected image ids, one a line")
    return ids
