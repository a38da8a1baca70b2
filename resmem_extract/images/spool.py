"""Images kept on the disk, because they come once and are needed several times."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

from PIL import Image

from ..decoding import decode
from ..errors import WorkError, reason_of

__all__ = ["Spool"]


class Spool:
    """Images in a temporary file without a name, which vanishes with this object.

    Image files stay as they are, pictures take three bytes a pixel.
    """

    path: Path | None = None

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._places: list[tuple[int, int, tuple[int, int] | None]] = []
        self.nbytes = 0
        """Size of the file."""

    def append(self, content: bytes | Image.Image) -> None:
        """Add an image: the bytes of a file, or a picture.

        Raises
        ------
        ImageError
            The picture cannot become RGB.
        WorkError
            The disk is full.
        """
        size = None
        if not isinstance(content, bytes):
            picture = decode(content, image_id=f"{self}[{len(self)}]")
            size, content = picture.size, picture.tobytes()
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise WorkError(
                f"image {len(self)} of an iterable cannot be kept in {tempfile.gettempdir()}"
                f" ({reason_of(error)}); set TMPDIR to a larger disk, or give a sequence with"
                " __len__ and __getitem__, which needs none"
            ) from error
        self._places.append((self.nbytes, len(content), size))
        self.nbytes += len(content)

    def read(self, index: int) -> bytes | Image.Image:
        """Return one image."""
        offset, length, size = self._places[index]
        content = os.pread(self._file.fileno(), length, offset)
        return content if size is None else Image.frombytes("RGB", size, content)

    def __len__(self) -> int:
        return len(self._places)

    def __str__(self) -> str:
        return "images"
