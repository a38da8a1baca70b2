"""Representational similarity analysis: RDMs, comparators and inference (``rx.rsa``).

It sees arrays, or what reads like one, and never a network or a file format.
"""

from ..rdm import RDM
from .bootstrap import Bootstrap, Draws, bootstrap, bootstrap_pairs
from .build import kernel, rdm, rdms
from .ceiling import Ceiling
from .comparators import COMPARATORS, DEFAULT_COMPARATOR, comparator
from .files import read_npz, write_npz
from .interop import crossnobis, from_rsatoolbox, read_rsatoolbox, to_rsatoolbox
from .kernel import Kernel
from .metrics import METRICS
from .permutation import (
    Permutations,
    false_discovery_rate,
    least_p,
    permutation_test,
    permutation_tests_of_pairs,
)
from .sampled import PairSample, SampledSimilarity, sampled_similarity
from .similarity import Similarity, compare, noise_ceiling

__all__ = [
    "COMPARATORS",
    "DEFAULT_COMPARATOR",
    "METRICS",
    "RDM",
    "Bootstrap",
    "Ceiling",
    "Draws",
    "Kernel",
    "PairSample",
    "Permutations",
    "SampledSimilarity",
    "Similarity",
    "bootstrap",
    "bootstrap_pairs",
    "comparator",
    "compare",
    "crossnobis",
    "false_discovery_rate",
    "from_rsatoolbox",
    "kernel",
    "least_p",
    "noise_ceiling",
    "permutation_test",
    "permutation_tests_of_pairs",
    "rdm",
    "rdms",
    "read_npz",
    "read_rsatoolbox",
    "sampled_similarity",
    "to_rsatoolbox",
    "write_npz",
]
