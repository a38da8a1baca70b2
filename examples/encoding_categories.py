"""Which layer tells faces, animals, humans and natural things apart, in 92 images.

    python examples/encoding_categories.py --out categories/

The images are those of Kriegeskorte et al. (2008). The columns of the images' own table are the
targets, as with

    resmem-extract encode layers.h5 --target face --target animal --out encode/

The data come from ``$RESMEM_EXTRACT_DATA``, or are downloaded (4 MB).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import resmem_extract as rx
from resmem_extract.report.encoding_figures import draw_encoding

MODULES = ["features.conv1", *(f"features.layer{k}" for k in (1, 2, 3, 4)), "features.fc"]
TARGETS = ("human", "face", "animal", "natural")


def main() -> None:
    """Extract layers of the images, and predict their categories."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    run(parser.parse_args().out)


def run(out: Path, permutations: int = 199) -> rx.EncodeResult:
    """Return the result, of which a table is printed."""
    data = rx.datasets.kriegeskorte92()
    out.mkdir(parents=True, exist_ok=True)
    table = out / "images.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "image_id", *TARGETS])
        for k, image_id in enumerate(data.ids):
            values = [data.columns[name][k] for name in TARGETS]
            writer.writerow([(data.images / image_id).absolute(), image_id, *values])
    store = out / "layers.h5"
    rx.extract("resmem", MODULES, table, out=store, pool="avg")
    result = rx.encode(
        store,
        target=TARGETS,
        out=out / "encode",
        scale="zscore",
        permutations=permutations,
        overwrite=True,
    )
    draw_encoding(out / "encode", result, ["png"])
    print("r of held-out images, mean over folds (* p < 0.05, corrected)")
    print(f"{'':16}" + "".join(f"{name:>10}" for name in TARGETS))
    for scored in result.scores:
        cells = (
            f"{r:9.2f}{'*' if p < 0.05 else ' '}"
            for r, p in zip(scored.mean_r, scored.p_fdr, strict=True)
        )
        print(f"{scored.module:16}" + "".join(cells))
    return result


if __name__ == "__main__":
    main()
