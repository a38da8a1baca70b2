"""Stacks of pictures in HDF5, such as the `imgBrick` of the Natural Scenes Dataset."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import MissingExtraError, RequestError, reason_of, shown
from .stacks import as_picture, check_pixels, from_stack
from .stimuli import StimulusSet

__all__ = ["Hdf5Stack", "from_hdf5"]

_USUAL_NAME = "/imgBrick"
_NAMES_OF_IDS = ("image_id", "id")
_BLOCK_BYTES = 2**26
_NEIGHBOURS = 64  # threads that decode are at most about so many pictures apart
_CACHE_BYTES = 2**28
_CACHE_SLOTS = 100_003  # a prime, far above the number of chunks in the cache
_MOST_NAMES = 5


def from_hdf5(path: Path, name: str | None, ids: Iterable[Any] | None) -> StimulusSet:
    """Return the pictures of a data set, uint8 `[N, H, W, 3]` or `[N, H, W]`.

    Parameters
    ----------
    path : Path
        An HDF5 file.
    name : str, optional
        Full name of the data set; by default `/imgBrick`.
    ids : iterable, optional
        One an image; by default those of a data set `image_id` or `id` beside the pictures, else
        their numbers from 0 on.

    Raises
    ------
    RequestError
        The file cannot be read, holds no such data set, or one that is no stack of pictures.
    MissingExtraError
        It is compressed in a way that needs hdf5plugin.
    """
    full = _USUAL_NAME if name is None else f"/{name.strip('/')}"
    called = f"{path}:{full}"
    with _open_file(path) as file:
        dataset = _dataset(file, path, full)
        check_pixels(dataset.shape, dataset.dtype, called)
        _check_sources(dataset, called)
        _load_filters(dataset, called)
        if ids is None:
            ids = _ids_beside(dataset)
        stack = Hdf5Stack(path, full, _rows_at_once(dataset), _cache(dataset))
        return from_stack(stack, len(dataset), ids)


@dataclass(frozen=True)
class _Opened:
    """A data set that is open in one process, and the blocks of it that were read last."""

    pid: int
    file: h5py.File
    dataset: h5py.Dataset
    lock: threading.Lock = field(default_factory=threading.Lock)
    blocks: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)


class Hdf5Stack:
    """A data set of pictures, opened at the first use in each process.

    HDF5 objects must not cross a fork, and cannot be pickled.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Full name of the data set.
    rows_at_once : int
        How many pictures are read together. Where chunks hold parts of many pictures, reading them
        one by one would go through the same chunks again and again.
    cache : int
        Bytes of chunks that HDF5 keeps.
    """

    def __init__(self, path: Path, name: str, rows_at_once: int, cache: int) -> None:
        self.path, self.name = path, name
        self._rows_at_once, self._cache = rows_at_once, cache
        self._opened: _Opened | None = None

    def read(self, index: int) -> Image.Image:
        """Return one picture.

        Raises
        ------
        OSError
            The file is gone, has changed, or is damaged there.
        """
        try:
            opened = self._open()
            if self._rows_at_once == 1:
                return as_picture(opened.dataset[index])
            number, row = divmod(index, self._rows_at_once)
            with opened.lock:
                return as_picture(self._block(opened, number)[row])
        except (LookupError, RuntimeError, ValueError) as error:
            raise OSError(f"{self} is not what it was: {reason_of(error)}") from error

    def _block(self, opened: _Opened, number: int) -> npt.NDArray[np.uint8]:
        """Return pictures that are read together, kept for the next ones that are wanted."""
        blocks = opened.blocks
        if number not in blocks:
            start = number * self._rows_at_once
            block = opened.dataset[start : start + self._rows_at_once]
            whole = self._rows_at_once * block[0].nbytes  # the last block may be smaller
            most = max(2, min(_NEIGHBOURS // self._rows_at_once + 1, _BLOCK_BYTES // whole))
            while len(blocks) >= most:
                del blocks[next(iter(blocks))]
            blocks[number] = block
        return blocks[number]

    def _open(self) -> _Opened:
        """Return the data set, open in this process; that two threads may open it does no harm."""
        if self._opened is None or self._opened.pid != os.getpid():
            file = h5py.File(self.path, "r")
            access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
            access.set_chunk_cache(_CACHE_SLOTS, self._cache, 1.0)
            dataset = h5py.Dataset(h5py.h5d.open(file.id, self.name.encode(), access))
            self._opened = _Opened(os.getpid(), file, dataset)
        return self._opened

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"

    def __reduce__(self) -> tuple[type[Hdf5Stack], tuple[Path, str, int, int]]:
        return Hdf5Stack, (self.path, self.name, self._rows_at_once, self._cache)


def _rows_at_once(dataset: h5py.Dataset) -> int:
    """Return as many pictures as a chunk has a part of, or an even share if they take too much."""
    rows: int = 1 if dataset.chunks is None else min(dataset.chunks[0], len(dataset))
    room = max(1, _BLOCK_BYTES // math.prod(dataset.shape[1:]))
    while rows > room:
        rows = -(-rows // 2)
    return rows


def _cache(dataset: h5py.Dataset) -> int:
    """Return the bytes of all chunks that a picture lies in, within reason.

    A chunk that is not in the cache is not read as a whole, but in pieces as small as one byte
    where colours lie in chunks of their own.
    """
    if dataset.chunks is None:
        return 0
    sides = zip(dataset.shape[1:], dataset.chunks[1:], strict=True)
    n_chunks = math.prod(-(-n // k) for n, k in sides)
    return min(int(n_chunks * math.prod(dataset.chunks)), _CACHE_BYTES)


def _open_file(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        is_locked = isinstance(error, BlockingIOError) or "lock" in str(error)
        hint = "; close the program that writes to it" if is_locked else ""
        raise RequestError(
            f"{shown(path)} cannot be read as HDF5 ({reason_of(error)}){hint}"
        ) from error
    if file.attrs.get("format") == "resmem-extract":
        file.close()
        raise RequestError(
            f"{shown(path)} is a feature store, which holds activations; give the images themselves"
        )
    return file


def _dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    try:
        found = file[name]
    except (KeyError, OSError):  # absent; or a link to what is absent
        found = None
    if isinstance(found, h5py.Dataset) and found.shape is not None:
        return found
    axes: dict[str, int] = {}
    file.visititems(
        lambda name, item: (
            axes.update({f"/{name}": item.ndim})
            if isinstance(item, h5py.Dataset) and item.shape is not None
            else None
        )
    )
    names = sorted(axes, key=lambda name: axes[name] < 3)  # pictures have an axis more than 2
    if not names:
        raise RequestError(f"{shown(path)} holds no data set; pictures were expected in {name}")
    listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    raise RequestError(
        f"{shown(path)} holds no data set {shown(name)}, but {shown(listed)};"
        f" type {shown(f'{path}:{names[0]}')}"
    )


def _check_sources(dataset: h5py.Dataset, called: str) -> None:
    """Raise if a part lies in a file that is missing: HDF5 would give zeros for it."""
    if not dataset.is_virtual:
        return
    folder = Path(dataset.file.filename).parent
    for source in dataset.virtual_sources():
        name = source.file_name  # "." is the same file; "%b" stands for a number
        if name != "." and "%" not in name and not (folder / name).is_file():
            raise RequestError(
                f"{shown(called)} is a virtual data set, and {shown(name)}, where a"
                " part of it lies, is missing"
            )


def _load_filters(dataset: h5py.Dataset, called: str) -> None:
    """Make sure that the filters that a data set passed can be undone.

    Raises
    ------
    MissingExtraError
    """
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    if not all(h5py.h5z.filter_avail(code) for code, *_ in filters):
        try:
            import hdf5plugin  # noqa: F401  (importing registers the filters)
        except ImportError:
            hint = "type: pip install 'resmem-extract[compression]'"
        else:
            hint = "hdf5plugin does not know it either"
        for code, _, _, title in filters:
            if not h5py.h5z.filter_avail(code):
                raise MissingExtraError(
                    f"{shown(called)} needs the HDF5 filter {code} ({title.decode()}); {hint}"
                )


def _ids_beside(dataset: h5py.Dataset) -> Any:
    """Return the ids that lie beside the pictures, None if there are none."""
    for name in _NAMES_OF_IDS:
        beside = dataset.parent.get(name)
        if isinstance(beside, h5py.Dataset) and beside.ndim == 1:
            return beside[:]
    return None
