"""torchvision's `create_feature_extractor` on PyPI resmem's network, without compiling.

Prints one line of JSON: seconds without start-up.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from resmem import ResMem, transformer
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--module", action="append")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    model = ResMem(pretrained=True).eval()
    nodes = get_graph_node_names(model)[1]
    names = {name: nodes[-1] if name == "output" else name for name in arguments.module}
    extractor = create_feature_extractor(model, {node: name for name, node in names.items()})
    paths = sorted(arguments.images.iterdir())
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in arguments.module}
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, len(paths), arguments.batch_size):
            batch = paths[first : first + arguments.batch_size]
            outputs = extractor(
                torch.stack([transformer(Image.open(p).convert("RGB")) for p in batch])
            )
            for name, output in outputs.items():
                kept[name].append(output)
    for name, outputs in kept.items():
        np.save(arguments.out / f"{name}.npy", torch.cat(outputs).numpy())
    print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
