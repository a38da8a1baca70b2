"""Whole jobs: images, a network and a store, joined."""

from .extract import extract, extract_many
from .score import Scores, score
from .summary import ExtractSummary
from .verify import ModuleDeviation, Reproduction, reproduce_store

__all__ = [
    "ExtractSummary",
    "ModuleDeviation",
    "Reproduction",
    "Scores",
    "extract",
    "extract_many",
    "reproduce_store",
    "score",
]
