"""Do the golden stores read the same in this zarr? It needs zarr and numpy, nothing of embedkd.

    python tests/golden/check_any_zarr.py

Beside every store, ``NAME.npz`` holds what zarr-python read when the store was made, one entry an array. A warning of
zarr is an error here. It runs under any Python, so that releases of zarr which ours cannot have are checked too.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr

GOLDEN = Path(__file__).parent


def read_arrays(store: Path) -> dict[str, "np.ndarray[Any, Any]"]:
    """Every array of a store by its path, as zarr reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        members = dict(zarr.open_group(store, mode="r").members(max_depth=None))
        arrays = sorted((name, array) for name, array in members.items() if isinstance(array, zarr.Array))
        return {name: np.asarray(array[...]) for name, array in arrays}


def differences(found: dict[str, "np.ndarray[Any, Any]"], expected: dict[str, "np.ndarray[Any, Any]"]) -> list[str]:
    """What two readings do not agree on: names, data types, shapes, values (one NaN is as good as another)."""
    lines = [f"{name} is only in one of them" for name in sorted(found.keys() ^ expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        a, b = found[name], expected[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            lines.append(f"{name}: {a.dtype} {a.shape}, expected {b.dtype} {b.shape}")
        elif not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            lines.append(f"{name}: {int((a != b).sum())} values differ")
    return lines


def main() -> int:
    """Compare every golden store, and say what differs."""
    failed = 0
    for store in sorted(GOLDEN.glob("*.zarr")):
        with np.load(store.with_suffix(".npz")) as file:
            expected = {name: file[name] for name in file.files}
        found = read_arrays(store)
        lines = differences(found, expected)
        failed += bool(lines)
        print(f"{store.name}: {len(found)} arrays, {'; '.join(lines) or 'all as they were'}")
    print(f"zarr {zarr.__version__}, numpy {np.__version__}, Python {sys.version.split()[0]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
