"""Embedding stores: what teachers said, in chunked Zarr, with proof. Torch-free."""

from embedkd.store.averaging import average, default_name
from embedkd.store.classes import ClassSet, set_names, write_class_set
from embedkd.store.commits import Commit
from embedkd.store.creation import create_store, is_created, remembered_root
from embedkd.store.manifest import Manifest, Slot
from embedkd.store.passes import Pass
from embedkd.store.reader import EmbeddingStore, open_store
from embedkd.store.verify import OutputCheck, check_output
from embedkd.store.view import SlotRead, TeacherView
from embedkd.store.writer import SAME_COSINE, PassWriter, SlotRows

__all__ = [
    "SAME_COSINE",
    "ClassSet",
    "Commit",
    "EmbeddingStore",
    "Manifest",
    "OutputCheck",
    "Pass",
    "PassWriter",
    "Slot",
    "SlotRead",
    "SlotRows",
    "TeacherView",
    "average",
    "check_output",
    "create_store",
    "default_name",
    "is_created",
    "open_store",
    "remembered_root",
    "set_names",
    "write_class_set",
]
