"""Feature stores: one HDF5 file a network, written whole or not at all, read lazily."""

from .activations import merge_activations, split_activations
from .arrays import FeatureArray
from .dataset import StoreDataset
from .encoding_file import ENCODING_FORMAT, EncodingWriter, read_encoding
from .export import Exported, ExportFormat, export_store
from .layout import Layout, choose_layouts, layout_of
from .merge import Merged, merge_stores
from .rdm_file import is_rdm_file, read_rdms, write_rdms
from .reader import Store, open_store
from .schema import COMPRESSIONS, FORMAT, FORMAT_VERSION, check_column_names
from .space import check_free_space, format_bytes, parse_bytes, required_bytes
from .split import Part, split_store
from .verify import Damage, Verification, verify_store
from .writer import StoreWriter

__all__ = [
    "COMPRESSIONS",
    "ENCODING_FORMAT",
    "FORMAT",
    "FORMAT_VERSION",
    "Damage",
    "EncodingWriter",
    "ExportFormat",
    "Exported",
    "FeatureArray",
    "Layout",
    "Merged",
    "Part",
    "Store",
    "StoreDataset",
    "StoreWriter",
    "Verification",
    "check_column_names",
    "check_free_space",
    "choose_layouts",
    "export_store",
    "format_bytes",
    "is_rdm_file",
    "layout_of",
    "merge_activations",
    "merge_stores",
    "open_store",
    "parse_bytes",
    "read_encoding",
    "read_rdms",
    "required_bytes",
    "split_activations",
    "split_store",
    "verify_store",
    "write_rdms",
]
