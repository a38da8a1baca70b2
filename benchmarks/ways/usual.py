"""The usual way: the full network under a hook, all outputs kept, saved at the end.

PyPI resmem's own network and transform, a plain hook that clones, `np.save` of all of them.
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--module", action="append")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    model = ResMem(pretrained=True).eval()
    modules = dict(model.named_modules())
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in arguments.module}

    def keep(name):
        return lambda _module, _inputs, output: kept[name].append(output.detach().clone())

    for name in arguments.module:
        modules["" if name == "output" else name].register_forward_hook(keep(name))
    paths = sorted(arguments.images.iterdir())
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, len(paths), arguments.batch_size):
            batch = paths[first : first + arguments.batch_size]
            model(torch.stack([transformer(Image.open(p).convert("RGB")) for p in batch]))
    for name, outputs in kept.items():
        np.save(arguments.out / f"{name}.npy", torch.cat(outputs).numpy())
    print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
