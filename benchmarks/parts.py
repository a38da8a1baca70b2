"""What parts and their join cost: an extraction in parts against one file straight through.

    python benchmarks/parts.py                        # as many images as two parts hold and more
    python benchmarks/parts.py --images 640 --rounds 5 --part-mb 256

Both ways are `rx.extract` of features.5.4 of ResMem over the same photographs, in turn, with the
same plan; straight through is a run whose one part is never closed, and so becomes the file. Wall
time from the first image read to the file under its name, everything on the disk. Contents are
compared. Each round writes its files anew; medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import h5py
import machine
import numpy as np
from photographs import make_photographs

import resmem_extract as rx
from resmem_extract.pipeline import parts

MODULE = "features.5.4"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part-mb", type=int, default=parts.LIMITS.nbytes // 10**6)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    arguments = parser.parse_args()
    print(f"{machine.one_line()}\n")
    limits = {
        "straight": parts.Limits(2**62, 1e9, 1e9),
        "parts": parts.Limits(arguments.part_mb * 10**6),
    }
    seconds: dict[str, list[float]] = {way: [] for way in limits}
    model = rx.load_model("resmem")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        images = make_photographs(Path(scratch) / "photos", arguments.images)
        outs = {way: Path(scratch) / f"{way}.h5" for way in limits}
        for _ in range(arguments.rounds):
            for way, out in outs.items():
                out.unlink(missing_ok=True)
                parts.LIMITS = limits[way]
                summary = rx.extract(model, MODULE, images, out=out, compile="off")
                seconds[way].append(summary.seconds)
        if not same(*outs.values()):
            sys.exit("the files differ")
        size = outs["parts"].stat().st_size
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    for way, taken in seconds.items():
        rates = ", ".join(f"{arguments.images / one:.1f}" for one in taken)
        print(f"{way:9} {medians[way]:7.2f} s, images/s: {rates}")
    more = medians["parts"] / medians["straight"] - 1
    print(f"{arguments.images} images, {size / 1e9:.2f} GB, parts of {arguments.part_mb} MB")
    print(f"parts and join take {more:+.1%} of wall time; the contents are equal")


def same(a: Path, b: Path) -> bool:
    """Compare ids and activations."""
    with h5py.File(a) as one, h5py.File(b) as two:
        if not np.array_equal(one["images/id"][()], two["images/id"][()]):
            return False
        ours, theirs = one["features"][MODULE], two["features"][MODULE]
        rows = range(0, len(ours), 64)
        return all(np.array_equal(ours[i : i + 64], theirs[i : i + 64]) for i in rows)


if __name__ == "__main__":
    main()
