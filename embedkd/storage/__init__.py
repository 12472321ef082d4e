"""Bytes in and out: objects that are created once, and files that are replaced whole."""

from embedkd.storage.files import make_folder, sync_folder, unnamed_file, write_all, write_atomic, write_error
from embedkd.storage.objects import LocalStorage, Storage
from embedkd.storage.opening import open_storage

__all__ = [
    "LocalStorage",
    "Storage",
    "make_folder",
    "open_storage",
    "sync_folder",
    "unnamed_file",
    "write_all",
    "write_atomic",
    "write_error",
]
