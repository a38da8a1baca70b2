"""The same pictures as every kind of stimuli."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from resmem_extract.images import StimulusSet, find_images

NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")


def pictures(n: int = len(NAMES), height: int = 6, width: int = 7) -> np.ndarray:
    """Return noise, uint8 `[n, height, width, 3]`."""
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class Dataset:
    """What a data set of torch is to us: a length, and items by number."""

    def __init__(self, stack: np.ndarray) -> None:
        self.stack = stack

    def __len__(self) -> int:
        return len(self.stack)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.stack[index]), index % 2


def folder(place: Path, stack: np.ndarray) -> StimulusSet:
    for name, picture in zip(NAMES, stack, strict=True):
        (place / name).write_bytes(png(picture))
    return find_images(place)


def hdf5(**options: Any) -> Callable[[Path, np.ndarray], StimulusSet]:
    def make(place: Path, stack: np.ndarray) -> StimulusSet:
        with h5py.File(place / "s.h5", "w") as file:
            file.create_dataset("imgBrick", data=stack, **options)
        return find_images(place / "s.h5")

    return make


def npy(place: Path, stack: np.ndarray) -> StimulusSet:
    np.save(place / "s.npy", stack)
    return find_images(place / "s.npy")


def npz(place: Path, stack: np.ndarray) -> StimulusSet:
    np.savez(place / "s.npz", image_id=NAMES, pictures=stack)
    return find_images(place / "s.npz")


def compressed_npz(place: Path, stack: np.ndarray) -> StimulusSet:
    np.savez_compressed(place / "s.npz", stack)
    return find_images(place / "s.npz")


def tars(place: Path, stack: np.ndarray) -> StimulusSet:
    members = {name: png(picture) for name, picture in zip(NAMES, stack, strict=True)}
    first, last = dict(list(members.items())[:2]), dict(list(members.items())[2:])
    write_tar(place / "x-09.tar", first)
    write_tar(place / "x-10.tar", last)
    return find_images(place / "x-{09..10}.tar")


def pil_list(place: Path, stack: np.ndarray) -> StimulusSet:
    return find_images([Image.fromarray(picture) for picture in stack])


def opened_files(place: Path, stack: np.ndarray) -> StimulusSet:
    return find_images([Image.open(io.BytesIO(png(picture))) for picture in stack])


def encoded(place: Path, stack: np.ndarray) -> StimulusSet:
    return find_images([png(picture) for picture in stack])


def mapping(place: Path, stack: np.ndarray) -> StimulusSet:
    return find_images(dict(zip(NAMES, stack, strict=True)))


def pairs(place: Path, stack: np.ndarray) -> StimulusSet:
    return find_images(list(zip(NAMES, stack, strict=True)))


def array(place: Path, stack: np.ndarray) -> StimulusSet:
    return find_images(stack, ids=NAMES)


def tensor(place: Path, stack: np.ndarray) -> StimulusSet:
    import torch

    return find_images(torch.from_numpy(stack))


def dataset(place: Path, stack: np.ndarray) -> StimulusSet:
    return find_images(Dataset(stack))


def generator(place: Path, stack: np.ndarray) -> StimulusSet:
    def images() -> Iterator[Any]:
        yield from stack

    return find_images(images())


def generator_of_pairs(place: Path, stack: np.ndarray) -> StimulusSet:
    return find_images((name, png(picture)) for name, picture in zip(NAMES, stack, strict=True))


KINDS: dict[str, Callable[[Path, np.ndarray], StimulusSet]] = {
    "folder": folder,
    "HDF5": hdf5(),
    "HDF5 in chunks": hdf5(chunks=(2, 3, 4, 1)),
    "HDF5 compressed": hdf5(chunks=(3, 6, 7, 3), compression="gzip"),
    "npy": npy,
    "npz": npz,
    "compressed npz": compressed_npz,
    "tars": tars,
    "list of PIL": pil_list,
    "list of opened files": opened_files,
    "list of encoded files": encoded,
    "mapping": mapping,
    "pairs": pairs,
    "array": array,
    "tensor": tensor,
    "dataset": dataset,
    "generator": generator,
    "generator of pairs": generator_of_pairs,
}

NAMED = {"folder", "npz", "tars", "mapping", "pairs", "array", "generator of pairs"}
ENCODED = {"folder", "tars", "list of encoded files", "generator of pairs"}
IN_FILES = {
    "folder": NAMES,
    "HDF5": ("s.h5",),
    "HDF5 in chunks": ("s.h5",),
    "HDF5 compressed": ("s.h5",),
    "npy": ("s.npy",),
    "npz": ("s.npz",),
    "compressed npz": ("s.npz",),
    "tars": ("x-09.tar", "x-10.tar"),
}
