"""Names of files that are made from names of modules and values of columns."""

from __future__ import annotations

import re

from .checksums import checksum

__all__ = ["file_name"]

_MOST_BYTES = 200  # file systems admit 255


def file_name(text: str) -> str:
    """Return a text as part of a file's name that every system takes, two never as the same."""
    name = re.sub(r'[/\\:*?"<>|%\x00-\x1f]', lambda found: f"%{ord(found[0]):02X}", text)
    if len(name.encode("utf-8", "replace")) > _MOST_BYTES:
        return f"{name[: _MOST_BYTES // 4]}~{checksum(text.encode()):016x}"
    return name
