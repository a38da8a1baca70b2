"""How fast photographs are decoded and prepared for ResMem: in line, by threads, by processes.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --images photos/ --workers 8 --seconds 20

Without --images, the photographs of scikit-image and scikit-learn are resized to 500 x 400 JPEGs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import machine
import numpy as np
from PIL import Image, features

from resmem_extract.decoding import decode, load_images
from resmem_extract.images import StimulusSet, find_images, sample_photographs


def prepare(image: Image.Image) -> np.ndarray:
    """Do what ResMem does to one photograph: 256 x 256, bilinear, the middle 227 x 227."""
    small = image.resize((256, 256), Image.Resampling.BILINEAR)
    return np.asarray(small.crop((14, 14, 241, 241)))


def load_one(path: Path) -> np.ndarray:
    """Do in another process what a thread of `load_images` does, less the hash."""
    return prepare(decode(path.read_bytes()))


def repeated(stimuli: StimulusSet, seconds: float) -> StimulusSet:
    """Repeat the images, so that one thread would be busy for about so long."""
    start = time.perf_counter()
    for path in stimuli.images:
        load_one(path)
    times = max(1, round(seconds / (time.perf_counter() - start)))
    ids = (f"{k}/{image_id}" for k in range(times) for image_id in stimuli.ids)
    return StimulusSet(tuple(ids), stimuli.images * times)


def by_processes(stimuli: StimulusSet, workers: int) -> Iterator[np.ndarray]:
    """Decode in forked processes, in order; the start of the processes is not counted."""
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        list(pool.map(load_one, stimuli.images[:workers]))
        yield np.empty(0)
        yield from pool.map(load_one, stimuli.images, chunksize=8)


def images_per_second(make: Callable[[], Iterator[object]], skipped: int = 0) -> float:
    """Time how fast an iterator runs dry, after its first `skipped` items."""
    iterator = make()
    list(islice(iterator, skipped))
    start = time.perf_counter()
    count = sum(1 for _ in iterator)
    return count / (time.perf_counter() - start)


def typical_jpegs(folder: Path) -> StimulusSet:
    """Write the sample photographs as JPEGs of 500 x 400 pixels."""
    samples = sample_photographs()
    for image_id, path in zip(samples.ids, samples.paths, strict=True):
        small = decode(path.read_bytes()).resize((500, 400), Image.Resampling.LANCZOS)
        small.save(folder / f"{image_id.replace('/', '_')}.jpg", quality=90)
    return find_images(folder)


def compare(name: str, stimuli: StimulusSet, workers: int, seconds: float) -> None:
    """Print the throughput of each way to decode `stimuli`, and its ratio to in-line decoding."""
    many = repeated(stimuli, seconds)
    load = partial(load_images, many, prepare)
    print(f"{name}: {len(many)} reads of {len(stimuli)} images, {workers} workers")
    in_line = images_per_second(lambda: load(workers=0))
    ways = {
        "in line": in_line,
        "threads": images_per_second(lambda: load(workers=workers)),
        "processes": images_per_second(lambda: by_processes(many, workers), skipped=1),
    }
    for way, speed in ways.items():
        print(f"  {way:10} {speed:8.1f} images/s   x {speed / in_line:.2f}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="a folder, list or CSV to decode instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=5, help="of in-line decoding")
    options = parser.parse_args()
    turbo = features.version_feature("libjpeg_turbo")
    print(f"{machine.one_line()}, libjpeg-turbo {turbo}")
    if options.images:
        compare(str(options.images), find_images(options.images), options.workers, options.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        stimuli = typical_jpegs(Path(folder))
        compare("JPEG, 500 x 400", stimuli, options.workers, options.seconds)


if __name__ == "__main__":
    main()
