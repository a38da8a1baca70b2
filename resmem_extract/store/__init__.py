"""Feature stores: one HDF5 file a network, written whole or not at all, read lazily."""

from .arrays import FeatureArray
from .dataset import StoreDataset
from .rdm_file import is_rdm_file, read_rdms, write_rdms
from .reader import Store, open_store
from .schema import COMPRESSIONS, FORMAT, FORMAT_VERSION, check_column_names
from .space import check_free_space, format_bytes, required_bytes
from .writer import StoreWriter

__all__ = [
    "COMPRESSIONS",
    "FORMAT",
    "FORMAT_VERSION",
    "FeatureArray",
    "Store",
    "StoreDataset",
    "StoreWriter",
    "check_column_names",
    "check_free_space",
    "format_bytes",
    "is_rdm_file",
    "open_store",
    "read_rdms",
    "required_bytes",
    "write_rdms",
]
