"""Whole jobs on stimuli of every kind: the same pictures give the same numbers, bit for bit."""

from __future__ import annotations

import gc
import hashlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import resmem_extract as rx
from resmem_extract.config import read_config
from resmem_extract.errors import ImageError, RequestError
from resmem_extract.models.preprocessing import ResizeAndCrop
from resmem_extract.pipeline.bench import bench

NAMES = ("a.png", "b.png", "c.png", "d.png", "e.png")


class Dataset:
    """A data set in the manner of torch, which opens its files when it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(NAMES)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(self.folder / NAMES[index]) as image:
            return image.convert("RGB"), 0


@pytest.fixture(scope="module")
def small() -> rx.Model:
    """A network of two layers that says it predicts memorability."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)
    )
    return rx.Model(
        "small",
        "tests",
        network.eval(),
        ResizeAndCrop((64, 64), 56),
        aliases={"memorability": "output"},
    )


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """Five pictures, `[5, 120, 160, 3]`, smooth as photographs are."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    size = (160, 120)
    return np.stack([np.asarray(Image.fromarray(c).resize(size, Image.BICUBIC)) for c in coarse])


def write_pngs(folder: Path, stack: np.ndarray) -> Path:
    folder.mkdir()
    for name, picture in zip(NAMES, stack, strict=True):
        Image.fromarray(picture).save(folder / name)
    return folder


@pytest.fixture
def pngs(tmp_path: Path, stack: np.ndarray) -> Path:
    return write_pngs(tmp_path / "pngs", stack)


@pytest.fixture(scope="module")
def of_files(
    tmp_path_factory: pytest.TempPathFactory, small: rx.Model, stack: np.ndarray
) -> Iterator[rx.Store]:
    """The store that image files give."""
    folder = tmp_path_factory.mktemp("files")
    images = write_pngs(folder / "pngs", stack)
    rx.extract(small, "0", images, out=folder / "f.h5", batch_size=2)
    with rx.open_store(folder / "f.h5") as store:
        yield store


@pytest.fixture
def h5(tmp_path: Path, stack: np.ndarray) -> Path:
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file.create_dataset("imgBrick", data=stack, chunks=(2, 50, 50, 3), compression="gzip")
        file["image_id"] = NAMES
    return tmp_path / "stack.h5"


def npy(folder: Path, stack: np.ndarray) -> Path:
    np.save(folder / "stack.npy", stack)
    return folder / "stack.npy"


def npz(folder: Path, stack: np.ndarray) -> Path:
    np.savez(folder / "stack.npz", images=stack, image_id=NAMES)
    return folder / "stack.npz"


def tars(folder: Path, stack: np.ndarray) -> str:
    for shard, names in enumerate((NAMES[:2], NAMES[2:])):
        with tarfile.open(folder / f"shard-{shard:03d}.tar", "w") as tar:
            for name in names:
                tar.add(folder / "pngs" / name, arcname=name)
    return f"{folder}/shard-{{000..001}}.tar"


KINDS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "npy": npy,
    "npz": npz,
    "tars": tars,
    "list": lambda folder, stack: [Image.fromarray(picture) for picture in stack],
    "array with ids": lambda folder, stack: rx.find_images(stack, ids=NAMES),
    "dataset": lambda folder, stack: Dataset(folder / "pngs"),
    "generator": lambda folder, stack: zip(NAMES, iter(stack), strict=True),
}


@pytest.mark.parametrize("kind", ["HDF5", *KINDS])
def test_all_kinds_give_the_same_activations(tmp_path, small, pngs, h5, stack, of_files, kind):
    source = h5 if kind == "HDF5" else KINDS[kind](tmp_path, stack)
    rx.extract(small, "0", source, out=tmp_path / "f.h5", batch_size=2, workers=2)
    with rx.open_store(tmp_path / "f.h5") as store:
        assert np.array_equal(store["0"][:], of_files["0"][:])
        is_numbered = kind in ("npy", "list", "dataset")
        assert store.image_ids.tolist() == (list("01234") if is_numbered else list(NAMES))
        if kind == "tars":
            assert store.sha256.tolist() == of_files.sha256.tolist()
        else:
            pixels = (b"uint8[120,160,3]" + picture.tobytes() for picture in stack)
            assert store.sha256.tolist() == [hashlib.sha256(data).hexdigest() for data in pixels]


def test_a_repeated_request_looks_into_the_stack(tmp_path, small, h5):
    def run() -> rx.ExtractSummary:
        return rx.extract(small, "0", h5, out=tmp_path / "f.h5", pool="avg")

    assert not run().already_complete
    assert run().already_complete
    gc.collect()  # HDF5 lets nobody write to a file that this process still holds open
    with h5py.File(h5, "a") as file:
        file["imgBrick"][3, 0, 0] ^= 1
    with pytest.raises(RequestError, match="images: the same ids, but other contents"):
        run()


def test_a_stack_is_not_overwritten(small, h5):
    before = h5.read_bytes()
    with pytest.raises(RequestError, match="is one of the inputs"):
        rx.extract(small, "0", f"{h5}:/imgBrick", out=h5, overwrite=True)
    assert h5.read_bytes() == before


def test_scores_and_bench_and_configurations_take_them(tmp_path, small, pngs, h5, monkeypatch):
    scores = rx.score(small, h5, batch_size=2)
    assert scores.image_ids == NAMES
    assert scores.memorability == rx.score(small, pngs, batch_size=2).memorability
    assert len(set(scores.memorability)) == 5
    assert bench(small, "0", h5, n_images=7, rounds=1, folder=tmp_path).images == 7
    pattern = tars(tmp_path, np.empty(0))
    run = {"command": "score", "images": pattern}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert rx.find_images(read_config(tmp_path / "run.yaml").images).ids == NAMES
    monkeypatch.chdir(tmp_path)
    run = {"command": "score", "images": "stack.h5:/imgBrick"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert rx.find_images(read_config(tmp_path / "run.yaml").images).ids == NAMES


def test_a_bad_picture_is_skipped_and_its_column_value_with_it(tmp_path, small, pngs):
    (pngs / "b.png").write_bytes(b"torn")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for label, name in enumerate(NAMES):
            (pngs / f"{name[0]}.cls").write_text(str(label))
            tar.add(pngs / name, arcname=name)
            tar.add(pngs / f"{name[0]}.cls", arcname=f"{name[0]}.cls")
    with pytest.raises(ImageError, match=r"b\.png: not an image"):
        rx.extract(small, "0", tmp_path / "s.tar", out=tmp_path / "f.h5")
    rx.extract(small, "0", tmp_path / "s.tar", out=tmp_path / "f.h5", pool="avg", on_error="skip")
    with rx.open_store(tmp_path / "f.h5") as store:
        assert store.image_ids.tolist() == ["a.png", "c.png", "d.png", "e.png"]
        assert store.columns["label"].tolist() == [0, 2, 3, 4]
        assert store.provenance["image_root"] == str(tmp_path / "s.tar")
