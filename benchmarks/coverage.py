"""Whether intervals cover the truth, and tests reject no more than they say: simulations.

    python benchmarks/coverage.py                       # 1,000 simulations of each comparator
    python benchmarks/coverage.py --simulations 100     # a look

Images are points of a space. Two models see one half of it each, through the same map, so that they
are equally good; subjects see all of it, through what they share and what is their own, with noise.
The truth is the similarity of a model with subjects at large on images at large, from studies of
very many of both. Each simulation is a study of new images and new subjects (or the same ones,
where the bootstrap is over the other factor alone), whose 95 % interval should hold the truth in 95
of 100. A model that sees nothing should have p < 0.05 in 5 of 100, and so should the difference of
the two.
"""

from __future__ import annotations

import argparse
import time

import machine
import numpy as np
from scipy.stats import binom

from resmem_extract.compare import RDM, bootstrap, permutation_test, rdm
from resmem_extract.compare.vectors import similarities

HALF, UNITS, CHANNELS = 6, 60, 20
NOISE = 2.0
"""Of a subject's channel, beside the signal that subjects share, which is about 1."""
CASES = {
    "95 % interval, new images and subjects": 0.95,
    "95 % interval, new images, one subject": 0.95,
    "95 % interval, the same images, new subjects": 0.95,
    "p < 0.05, two models that are equally good": 0.05,
    "p < 0.05, a model that sees nothing": 0.05,
}


class World:
    """Maps that stay the same over studies, one fixed subject, and one fixed set of images."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(7)
        self.of_models = rng.standard_normal((HALF, UNITS))
        half = rng.standard_normal((HALF, CHANNELS)) / np.sqrt(HALF)
        # Exchanging the halves of the space exchanges channels, which no RDM sees.
        self.shared = np.block([[half, np.zeros_like(half)], [np.zeros_like(half), half]])
        self.one = self.subjects(rng, 1)
        self.images = rng.standard_normal((images, 2 * HALF))

    def subjects(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return the maps of new subjects, `[n, 2 * HALF, 2 * CHANNELS]`."""
        own = rng.standard_normal((n, *self.shared.shape)) / np.sqrt(HALF)
        return self.shared + own

    def models(self, points: np.ndarray) -> list[RDM]:
        halves = points[:, :HALF], points[:, HALF:]
        return [rdm_of(np.maximum(half @ self.of_models, 0)) for half in halves]

    def brain(self, rng: np.random.Generator, points: np.ndarray, maps: np.ndarray) -> RDM:
        seen = points @ maps
        seen += NOISE * rng.standard_normal(seen.shape)
        own = [rdm_of(patterns).dissimilarities for patterns in seen]
        return RDM(np.stack(own), ids_of(points), "euclidean", "brain")

    def truth(self, method: str, points: int, subjects: int | None, studies: int) -> float:
        """Return the mean similarity over studies; `points` 0: of the same images always."""
        values = []
        for k in range(studies):
            rng = np.random.default_rng([3, k])
            where = rng.standard_normal((points, 2 * HALF)) if points else self.images
            maps = self.subjects(rng, subjects) if subjects else self.one
            model, brain = self.models(where)[0], self.brain(rng, where, maps)
            values.append(similarities(method, model.stack, brain.stack).mean())
        return float(np.mean(values))


def ids_of(points: np.ndarray) -> tuple[str, ...]:
    return tuple(str(k) for k in range(len(points)))


def rdm_of(patterns: np.ndarray) -> RDM:
    return rdm(patterns, "euclidean", ids=ids_of(patterns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--method", action="append")
    arguments = parser.parse_args()
    print(machine.one_line())
    n = arguments.simulations
    print(
        f"\n{n} simulations of {arguments.images} images, {arguments.subjects} subjects, "
        f"{arguments.samples} samples; % of simulations, and what is as likely by chance as 95 %\n"
    )
    for method in arguments.method or ("spearman", "pearson", "cosine"):
        started = time.perf_counter()
        counted = simulated(method, arguments)
        print(f"  {method} ({time.perf_counter() - started:.0f} s)")
        for (case, stated), yes in zip(CASES.items(), counted, strict=True):
            low, high = 100 * np.array(binom.interval(0.95, n, stated)) / n
            found = f"{100 * yes / n:6.1f}, stated {100 * stated:.0f} ({low:.1f} to {high:.1f})"
            print(f"    {case:46}{found}", flush=True)


def simulated(method: str, arguments: argparse.Namespace) -> list[int]:
    """Return how many simulations said yes, by case."""
    n_images, n_subjects = arguments.images, arguments.subjects
    world = World(n_images)
    large = 400
    everyone = world.truth(method, large, 60, 10)
    one_subject = world.truth(method, large, None, 40)
    same_images = world.truth(method, 0, 100, 40)
    counted = [0] * len(CASES)
    for k in range(arguments.simulations):
        rng = np.random.default_rng([1, k])
        points = rng.standard_normal((n_images, 2 * HALF))
        models = world.models(points)
        brain = world.brain(rng, points, world.subjects(rng, n_subjects))
        options = {"n": arguments.samples, "seed": k}
        both = bootstrap(models, brain, method, over="both", **options)
        low, high = both.intervals()[0]
        one = world.brain(rng, points, world.one)
        alone = bootstrap(models[:1], one, method, over="images", **options).intervals()[0]
        again = world.brain(rng, world.images, world.subjects(rng, n_subjects))
        fixed = bootstrap(
            world.models(world.images)[:1], again, method, over="subjects", **options
        ).intervals()[0]
        blind = rdm_of(rng.standard_normal((n_images, UNITS)))
        tested = permutation_test([blind], brain, method, **options)
        for case, yes in enumerate(
            (
                low <= everyone <= high,
                alone[0] <= one_subject <= alone[1],
                fixed[0] <= same_images <= fixed[1],
                both.difference_tests()[0, 1] < 0.05,
                tested.p()[0] < 0.05,
            )
        ):
            counted[case] += bool(yes)
    return counted


if __name__ == "__main__":
    main()
