"""A tiny data set and a finished store, made through the command line itself."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedkd.cli import main

Command = Callable[..., tuple[int, str, str]]


def invoke(capture: pytest.CaptureFixture[str], arguments: tuple[object, ...]) -> tuple[int, str, str]:
    """Run a command as the console script does; exit code, standard output, standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["embedkd", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    out, err = capture.readouterr()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0, out, err


@pytest.fixture
def embedkd(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line."""
    return lambda *arguments: invoke(capsys, arguments)


@pytest.fixture
def refused(embedkd: Command) -> Callable[..., str]:
    """The message of a command that must fail as users may expect: exit code 1, one or two lines, no traceback."""

    def check(*arguments: object) -> str:
        code, _, err = embedkd(*arguments)
        assert code == 1, err
        *before, last = [line for line in err.splitlines() if line.strip()]
        message = [line for line in (*before, last) if not line.startswith(("note:", "loading", "index:"))]
        assert 1 <= len(message) <= 2, err
        assert message[0].startswith("error: "), err
        assert "Traceback" not in err
        return "\n".join(message)

    return check


def draw(path: Path, label: int, number: int) -> None:
    """A 40 px image whose colour says its class."""
    rng = np.random.default_rng([label, number])
    pixels = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8)
    pixels[..., label] += 150
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of twelve images."""
    folder = tmp_path_factory.mktemp("images")
    for label, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir()
        for number in range(12):
            draw(folder / name / f"{number}.png", label, number)
    return folder


@pytest.fixture(scope="session")
def shards(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those images as shards."""
    from embedkd.sources.pack import pack

    return pack(images, tmp_path_factory.mktemp("data") / "shards", rows_per_shard=8, val=0.2, test=0.2).folder


@pytest.fixture(scope="session")
def store(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of the embedded teacher."""
    from embedkd.config import load_config
    from embedkd.precompute import precompute

    path = tmp_path_factory.mktemp("stores") / "store.zarr"
    precompute(load_config(values={"data.shards": str(shards), "precompute.out": str(path)}))
    return path
