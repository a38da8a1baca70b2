"""Bootstrap over images and subjects: against rsatoolbox's `eval_bootstrap` on the same draws.

    python benchmarks/bootstrap.py
    python benchmarks/bootstrap.py --method tau-a --method cosine

Layers, images and subjects as many as in a usual comparison of a network with a brain; the RDMs are
made up. Both compute every similarity and the noise ceiling in every sample. rsatoolbox gets
few samples, ours as many as one would ask for; times are for each sample.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings

import machine
import numpy as np
import rsatoolbox

from resmem_extract.compare import COMPARATORS, RDM, Draws, bootstrap, to_rsatoolbox


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--images", type=int, default=92)
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--their-samples", type=int, default=10)
    parser.add_argument("--method", action="append", choices=list(COMPARATORS))
    arguments = parser.parse_args()
    print(machine.one_line())
    models, reference = made(arguments.layers, arguments.images, arguments.subjects)
    print(
        f"\n{arguments.layers} layers, {arguments.images} images, {arguments.subjects} subjects; "
        "milliseconds for each sample\n"
    )
    print(f"  {'':12}{'rsatoolbox':>12}{'ours':>8}{'ratio':>8}   largest difference")
    of_rdms = [name for name, entry in COMPARATORS.items() if entry.of == "rdms"]
    for method in arguments.method or of_rdms:
        one(method, models, reference, arguments)


def one(method: str, models: list[RDM], reference: RDM, arguments: argparse.Namespace) -> None:
    fixed = [rsatoolbox.model.ModelFixed(model.name, to_rsatoolbox(model)) for model in models]
    data = to_rsatoolbox(reference)
    name, n = COMPARATORS[method].rsatoolbox, arguments.their_samples
    np.random.seed(0)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        result = rsatoolbox.inference.eval_bootstrap(fixed, data, method=name, N=n)
        theirs = (time.perf_counter() - started) / n
    np.random.seed(0)
    sizes = (arguments.subjects, arguments.images)
    drawn = [[np.random.randint(0, size, size=size) for size in sizes] for _ in range(n)]
    draws = Draws(np.array([b for _, b in drawn]), np.array([a for a, _ in drawn]))
    same = bootstrap(models, reference, method, draws=draws, with_ceiling=True)
    difference = max(
        np.abs(same.samples[0] - result.evaluations).max(),
        np.abs(same.ceilings.T - result.noise_ceiling).max(),
    )
    started = time.perf_counter()
    bootstrap(models, reference, method, n=arguments.samples, with_ceiling=True)
    ours = (time.perf_counter() - started) / arguments.samples
    times = f"{1e3 * theirs:12.1f}{1e3 * ours:8.2f}{theirs / ours:8.0f}"
    print(f"  {method:12}{times}   {difference:.0e}", flush=True)


def made(layers: int, images: int, subjects: int) -> tuple[list[RDM], RDM]:
    """Return RDMs of layers that resemble those of subjects more or less."""
    rng = np.random.default_rng(0)
    ids = tuple(f"{k:04d}" for k in range(images))
    common = rng.random(images * (images - 1) // 2)
    models = [
        RDM(common + noise * rng.random(len(common)), ids, "correlation", f"layer{k}")
        for k, noise in enumerate(np.linspace(0.5, 5, layers))
    ]
    return models, RDM(common + rng.random((subjects, len(common))), ids, "correlation", "IT")


if __name__ == "__main__":
    main()
