"""The pruned graph equals the full network over a dozen architectures.

`benchmarks/architectures.py` does so over all of torchvision and timm; what it found is in
docs/architectures.md.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance import deviation, hook_everything

from resmem_extract import load_model
from resmem_extract.capture import prepare

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"

# Network, three modules over its depth, and the engine that can run it.
NETWORKS = {
    "timm/test_resnet": (("conv1", "layer2.0.conv1", "layer4"), "graph"),
    "timm/test_efficientnet": (("conv_stem", "blocks.2", "conv_head"), "graph"),
    "timm/test_byobnet": (("stem", "stages.1", "final_conv"), "graph"),
    "timm/test_convnext": (("stem", "stages.1.blocks.0.mlp", "stages.3"), "graph"),
    "timm/test_nfnet": (("stem", "stages.1", "final_conv"), "graph"),
    "timm/test_mambaout": (("stem", "stages.1", "head"), "graph"),
    "timm/test_vit": (("patch_embed", "blocks.2.attn", "norm"), "hooks"),
    "timm/mobilevit_xxs": (("stem", "stages.2", "final_conv"), "hooks"),
    "timm/ghostnet_050": (("conv_stem", "blocks.4", "global_pool"), "graph"),
    "timm/regnetx_002": (("stem", "s2.b1.conv2", "s4"), "graph"),
    "timm/resmlp_12_224": (("stem", "blocks.3.mlp_channels", "norm"), "graph"),
    "torchvision/shufflenet_v2_x0_5": (("conv1", "stage2.0.branch1", "conv5"), "graph"),
    "torchvision/squeezenet1_1": (("features.0", "features.6.expand3x3", "classifier"), "graph"),
    "torchvision/mnasnet0_5": (("layers.3", "layers.9.1", "classifier"), "graph"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_equals_full(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    paths, engine = NETWORKS[name]
    model = load_model(f"{name}@random")
    make = model.noise()
    inputs = make(2)
    expected = hook_everything(copy.deepcopy(model.network), inputs)
    addresses = [address for path in paths for address in model.paths.resolve(path)]
    capture = prepare(model.network, addresses, make, device=torch.device("cpu"))
    assert (capture.engine == "hooks") == (engine == "hooks")  # a graph may be fused as well
    found = capture(inputs)
    assert len(found) == len(paths)
    for one in capture.captured:
        assert np.ptp(found[one.path]) > 0
        assert deviation(found[one.path], expected[one.target.module][one.target.call]) <= 1e-5


def test_the_table_tells_the_same_engines() -> None:
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines()
            if re.match(r"\| (timm|torchvision): ", line)]  # fmt: skip
    documented = {row[1]: (row[2], row[3]) for row in rows}
    known = NETWORKS.keys() & documented.keys()
    assert len(known) >= 8
    for name in known:
        assert (documented[name][0] == "hooks") == (NETWORKS[name][1] == "hooks"), name
    deviations = [float(value) for engine, value in documented.values() if engine != "not run"]
    assert max(deviations) <= 1e-5
