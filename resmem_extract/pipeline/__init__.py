"""Whole jobs: images, a network and a store, joined."""

from .classify import ClassProbabilities, classify
from .extract import extract, extract_many
from .score import Scores, score
from .summary import ExtractSummary
from .targets import Targets, targets
from .transform import TransformSummary, transform
from .verify import ModuleDeviation, Reproduction, reproduce_store

__all__ = [
    "ClassProbabilities",
    "ExtractSummary",
    "ModuleDeviation",
    "Reproduction",
    "Scores",
    "Targets",
    "TransformSummary",
    "classify",
    "extract",
    "extract_many",
    "reproduce_store",
    "score",
    "targets",
    "transform",
]
