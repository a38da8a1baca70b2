"""Every network that can be named on the command line; one file a source."""

from .catalogue import list_models
from .load import load_model, released_weights
from .registry import SOURCES, register_source

__all__ = ["SOURCES", "list_models", "load_model", "register_source", "released_weights"]
