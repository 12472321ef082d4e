"""An archive of CIFAR-100's format with few, easy images: pickles as Python 2 wrote them, fine and coarse labels."""

import pickle
from pathlib import Path

import numpy as np

from embedkd.records import Split
from tests.sources.test_cifar import archive

CLASSES = ("apple", "aquarium_fish", "baby")
ROWS: dict[Split, int] = {"train": 30, "test": 6}


def write_archive(path: Path) -> Path:
    """``cifar-100-python.tar.gz``, with classes by colour, equally many of each."""
    documents: dict[str, dict[bytes, object]] = {
        "meta": {b"fine_label_names": [name.encode() for name in CLASSES], b"coarse_label_names": [b"people", b"fruit"]}
    }
    for split, rows in ROWS.items():
        labels = [row % len(CLASSES) for row in range(rows)]
        pixels = np.random.default_rng([rows]).integers(0, 120, (rows, 3, 1024), np.uint8)
        pixels[np.arange(rows), labels] += 100
        documents[split] = {
            b"data": pixels.reshape(rows, 3072),
            b"fine_labels": labels,
            b"coarse_labels": [label % 2 for label in labels],
            b"filenames": [f"{CLASSES[label]}_s_{row:06d}.png".encode() for row, label in enumerate(labels)],
            b"batch_label": f"{split}ing batch 1 of 1".encode(),
        }
    files = {f"cifar-100-python/{name}": pickle.dumps(said, protocol=2) for name, said in documents.items()}
    return archive(path, files | {"cifar-100-python/file.txt~": b""})
