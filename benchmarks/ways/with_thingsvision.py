"""thingsvision 2.7.3's own extraction of PyPI resmem; runs in an environment of its own.

Prints one line of JSON: seconds without start-up.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from resmem import ResMem, transformer
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import DataLoader, ImageDataset
from thingsvision.utils.storing import save_features


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--module", action="append")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    extractor = get_extractor_from_model(
        model=ResMem(pretrained=True), device="cpu", backend="pt", preprocess=transformer
    )
    start = time.perf_counter()
    dataset = ImageDataset(
        root=str(arguments.images),
        out_path=str(arguments.out),
        backend="pt",
        transforms=transformer,
    )
    batches = DataLoader(dataset=dataset, batch_size=arguments.batch_size, backend="pt")
    features = extractor.extract_features(
        batches=batches, module_names=arguments.module, flatten_acts=False
    )
    for module in arguments.module:
        save_features(features[module], out_path=str(arguments.out / module), file_format="npy")
    print(json.dumps({"images": len(dataset), "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
