"""Stacks of pictures in files of NumPy, mapped into memory: `.npy` and `.npz`."""

from __future__ import annotations

import struct
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import DAMAGE, RequestError, ResmemExtractError, WorkError, reason_of, shown
from .stacks import as_picture, check_pixels, from_stack
from .stimuli import StimulusSet

__all__ = ["NumpyStack", "from_npy", "from_npz"]

_NAMES_OF_IDS = ("image_id", "ids", "id")
_USUAL_NAMES = ("images", "imgBrick")


def from_npy(path: Path, ids: Iterable[Any] | None) -> StimulusSet:
    """Return the pictures of a `.npy` file, uint8 `[N, H, W, 3]` or `[N, H, W]`.

    Parameters
    ----------
    path : Path
    ids : iterable, optional
        One an image; by default their numbers from 0 on.

    Raises
    ------
    RequestError
        The file cannot be read, or holds no stack of pictures.
    """
    stack = NumpyStack(path, None)
    return from_stack(stack, len(stack.array()), ids)


def from_npz(path: Path, name: str | None, ids: Iterable[Any] | None) -> StimulusSet:
    """Return the pictures of one array of a `.npz` file.

    Parameters
    ----------
    path : Path
    name : str, optional
        Of the array; by default `images` or `imgBrick`, or the only one beside the ids.
    ids : iterable, optional
        One an image; by default the array `image_id`, `ids` or `id`, else numbers from 0 on.

    Raises
    ------
    RequestError
        As for `from_npy`, or there is no such array.
    WorkError
        The array is compressed, and the disk has no room for it unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    chosen = _choose(path, list(members), name)
    notes: tuple[str, ...] = ()
    if members[chosen].compress_type != zipfile.ZIP_STORED:
        size = members[chosen].file_size / 1e6
        notes = (
            f"{shown(path)} is compressed: {size:.1f} MB were unpacked into a temporary file;"
            " one saved by np.savez needs none",
        )
    if ids is None:
        ids = next((_ids(path, key) for key in _NAMES_OF_IDS if key in members), None)
    stack = NumpyStack(path, chosen)
    return from_stack(stack, len(stack.array()), ids, notes)


def _choose(path: Path, names: Sequence[str], name: str | None) -> str:
    """Return the array that holds the pictures."""
    if name is not None and name.strip("/") in names:
        return name.strip("/")
    others = [key for key in names if key not in _NAMES_OF_IDS]
    usual = [key for key in _USUAL_NAMES if key in others]
    if name is None and (len(others) == 1 or usual):
        return (usual or others)[0]
    wanted = shown("images" if name is None else name.strip("/"))
    if not others:
        held = f"only {shown(', '.join(names))}" if names else "and no other"
        raise RequestError(f"{shown(path)} holds no array {wanted}, {held}")
    raise RequestError(
        f"{shown(path)} holds no array {wanted}, but {shown(', '.join(others))};"
        f" type {shown(f'{path}:/{others[0]}')}"
    )


def _ids(path: Path, key: str) -> Any:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except DAMAGE as error:
        raise RequestError(
            f"{shown(path)}: {key} cannot be read; save ids as text: np.array(ids, dtype=str)"
        ) from error


class NumpyStack:
    """An array of pictures in a file, mapped at the first use.

    Pickled, it is mapped anew where it arrives.

    Parameters
    ----------
    path : Path
        A `.npy` file, or a `.npz` file.
    name : str or None
        Of the array in a `.npz` file. A compressed one is unpacked into a temporary file without
        a name, which vanishes with this object.
    """

    def __init__(self, path: Path, name: str | None) -> None:
        self.path, self.name = path, name
        self._array: npt.NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def read(self, index: int) -> Image.Image:
        """Return one picture."""
        return as_picture(self.array()[index])

    def array(self) -> npt.NDArray[np.uint8]:
        """Return all pictures, `[N, H, W, 3]` or `[N, H, W]`, on the disk.

        Raises
        ------
        RequestError
            The file cannot be read, or holds no stack of pictures.
        WorkError
            The disk has no room for unpacking.
        """
        with self._lock:
            if self._array is None:
                try:
                    self._array = self._map()
                except ResmemExtractError:
                    raise
                except DAMAGE as error:
                    raise _unreadable(self.path, error) from error
            return self._array

    def _map(self) -> npt.NDArray[np.uint8]:
        if self.name is None:
            with self.path.open("rb") as file:
                return _mapped(file, 0, str(self))
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(f"{self.name}.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                with self.path.open("rb") as file:
                    return _mapped(file, _start_of_member(file, info), str(self))
            with archive.open(info) as member, tempfile.TemporaryFile() as file:
                _unpack(member, file, self.path)
                return _mapped(file, 0, str(self))

    def __str__(self) -> str:
        return str(self.path) if self.name is None else f"{self.path}:/{self.name}"

    def __reduce__(self) -> tuple[type[NumpyStack], tuple[Path, str | None]]:
        return NumpyStack, (self.path, self.name)


def _mapped(file: BinaryIO, start: int, called: str) -> npt.NDArray[np.uint8]:
    """Map the array that begins at `start` of an open file, in the format of `.npy`.

    Raises
    ------
    RequestError
        It is no stack of pictures.
    ValueError, OSError
        It is damaged.
    """
    file.seek(start)
    major, _ = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    )
    shape, is_fortran, dtype = read_header(file)
    check_pixels(shape, dtype, called)
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return np.memmap(file, np.uint8, "r", offset=file.tell(), shape=shape, order=order)


def _start_of_member(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member begin that is stored as it is."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30:
        raise EOFError("the file is cut short")
    name, extra = struct.unpack("<HH", header[26:])
    return int(info.header_offset + len(header) + name + extra)


def _unpack(member: IO[bytes], file: BinaryIO, path: Path) -> None:
    """Unpack a member of an archive; its checksum is compared at the end."""
    while block := member.read(2**20):
        try:
            file.write(block)
            file.flush()
        except OSError as error:
            raise WorkError(
                f"{shown(path)} is compressed and cannot be unpacked into"
                f" {tempfile.gettempdir()} ({reason_of(error)}); set TMPDIR to a larger disk"
            ) from error


def _unreadable(path: Path, error: Exception) -> RequestError:
    kind = path.suffix.lower()
    return RequestError(
        f"{shown(path)} cannot be read as {kind} ({reason_of(error)}); is it cut short?"
    )
