"""Embedding stores: what teachers said, in chunked Zarr, with proof. Torch-free."""

from embedkd.store.agreeing import SAME_COSINE
from embedkd.store.appending import AppendReport, append_shards, new_shards
from embedkd.store.averaging import average, default_name
from embedkd.store.card import card, write_card
from embedkd.store.classes import ClassSet, set_names, write_class_set
from embedkd.store.commits import Commit
from embedkd.store.comparing import OutputDifference, StoreDifference, diff_stores
from embedkd.store.copying import CopyReport, copy_store
from embedkd.store.creation import create_store, is_created, remembered_root
from embedkd.store.log import SlotCounts
from embedkd.store.lookup import Lookup
from embedkd.store.manifest import Manifest, Slot
from embedkd.store.measured import MeasuredError
from embedkd.store.merging import MergeReport, merge_stores
from embedkd.store.passes import Pass
from embedkd.store.reader import EmbeddingStore, open_store
from embedkd.store.repairing import RepairReport, repair_store
from embedkd.store.rows import Rows
from embedkd.store.sealing import SealReport, seal_store
from embedkd.store.subsetting import Selection, SubsetReport, labels_of, subset_store
from embedkd.store.verify import OutputCheck, check_objects, check_output
from embedkd.store.view import SlotRead, SlotSamples, TeacherView
from embedkd.store.writer import PassWriter, SlotRows

__all__ = [
    "SAME_COSINE",
    "AppendReport",
    "ClassSet",
    "Commit",
    "CopyReport",
    "EmbeddingStore",
    "Lookup",
    "Manifest",
    "MeasuredError",
    "MergeReport",
    "OutputCheck",
    "OutputDifference",
    "Pass",
    "PassWriter",
    "RepairReport",
    "Rows",
    "SealReport",
    "Selection",
    "Slot",
    "SlotCounts",
    "SlotRead",
    "SlotRows",
    "SlotSamples",
    "StoreDifference",
    "SubsetReport",
    "TeacherView",
    "append_shards",
    "average",
    "card",
    "check_objects",
    "check_output",
    "copy_store",
    "create_store",
    "default_name",
    "diff_stores",
    "is_created",
    "labels_of",
    "merge_stores",
    "new_shards",
    "open_store",
    "remembered_root",
    "repair_store",
    "seal_store",
    "set_names",
    "subset_store",
    "write_card",
    "write_class_set",
]
