"""Names of files: which are images, and which ids they give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from ..errors import RequestError, shown
from ..types import IdForm

__all__ = [
    "IMAGE_EXTENSIONS",
    "MAX_ID_BYTES",
    "check_id",
    "extension",
    "frequent_extensions",
    "identify",
    "is_image",
    "is_utf8",
]

# fmt: off
IMAGE_EXTENSIONS = frozenset({
    ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})
"""What the name of an image in a folder or a tar ends in, in either case."""
# fmt: on

MAX_ID_BYTES = 1024
"""The longest id, in bytes of UTF-8; ids are stored at one fixed length."""


def extension(name: str) -> str:
    """Return what the name of a file ends in, in lower case: ``.jpg``, or nothing."""
    return PurePosixPath(name).suffix.lower()


def is_image(name: str) -> bool:
    """Tell whether a file is an image by its extension."""
    return extension(name) in IMAGE_EXTENSIONS


def frequent_extensions(names: Iterable[str]) -> str:
    """Return the most frequent extensions among `names`, for a message."""
    counts = Counter(extension(name) or "no extension" for name in names)
    frequent = sorted(counts, key=lambda ending: (-counts[ending], ending))
    return shown(", ".join(frequent[:5]) + (", ..." if len(frequent) > 5 else ""))


def identify(name: str, id_form: IdForm) -> str:
    """Return the id of an image by its path: as it is, or without folder and extension."""
    return PurePosixPath(name).stem if id_form == "stem" else name


def is_utf8(text: str) -> bool:
    """Tell whether a name that the file system gave was UTF-8 (others hold lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_id(image_id: str) -> None:
    """Raise if an id cannot be stored and written, one a line, as it is."""
    if not is_utf8(image_id):
        raise RequestError(f"the image name {image_id!a} is not valid UTF-8; rename it")
    if any(character in image_id for character in "\0\n\r"):
        raise RequestError(f"the image id {image_id!a} holds a NUL or a newline; rename it")
    if not image_id:
        raise RequestError("an image id is empty; name every image")
    if len(image_id.encode()) > MAX_ID_BYTES:
        raise RequestError(
            f"the image id {shown(image_id[:60])}... is {len(image_id.encode())} bytes long, more"
            f" than {MAX_ID_BYTES}; use shorter names, or --id stem"
        )
