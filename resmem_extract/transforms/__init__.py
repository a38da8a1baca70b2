"""Stored activations made into features: centred, scaled, joined, reduced. Knows no files.

Everything streams: activations are read in blocks of rows, once for each step that has to be
fitted and once to be transformed. The steps are scikit-learn's.
"""

from .chain import Chain, fit
from .steps import STEPS, Step, parse_steps
from .vectors import Rows, Vectors

__all__ = ["STEPS", "Chain", "Rows", "Step", "Vectors", "fit", "parse_steps"]
