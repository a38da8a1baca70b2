"""Whole jobs: images, a network and a store, joined."""

from .extract import ExtractSummary, extract
from .score import Scores, score

__all__ = ["ExtractSummary", "Scores", "extract", "score"]
