"""What doctests of embedkd find: a small finished store, ``store.zarr``, in the folder where they run."""

from pathlib import Path

import pytest

from tests.example_store import make_example


@pytest.fixture(scope="session")
def example_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the store of all examples; nobody may change it."""
    folder = tmp_path_factory.mktemp("examples")
    make_example(folder / "store.zarr")
    return folder


@pytest.fixture(autouse=True)
def _beside_the_example(request: pytest.FixtureRequest) -> None:
    """Only for doctests that name it: most examples need nothing."""
    example = getattr(request.node, "dtest", None)
    if example is not None and "store.zarr" in example.docstring:
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("example_store"))
