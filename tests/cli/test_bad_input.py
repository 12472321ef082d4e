"""Bad input: exit code 1, one or two lines that say what to do, nothing lost."""

import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A store that a test may damage."""
    return Path(shutil.copytree(store, tmp_path / "store.zarr"))


def train(copy: Path, shards: Path, tmp_path: Path, *losses: str) -> tuple[object, ...]:
    return (
        *("train", "--targets", copy, "--data", shards, "--out", tmp_path / "run", "--epochs", 1),
        *("--set", "train.class_set=n100-seed0", "--batch-size", 8),
        *(losses or ("--recipe", "clip-embed-kd")),
    )


def test_no_shards_match(refused: Refused, tmp_path: Path) -> None:
    message = refused("precompute", "--data", tmp_path / "none-*.tar", "--out", tmp_path / "s.zarr")
    assert "no shards match" in message
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100])
def test_shard_that_is_no_tar(refused: Refused, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-000000.tar").write_bytes(content)
    message = refused("precompute", "--data", tmp_path, "--out", tmp_path / "s.zarr")
    assert "train-000000.tar" in message


def test_cut_shard(refused: Refused, shards: Path, tmp_path: Path) -> None:
    whole = next(iter(sorted(shards.glob("*.tar")))).read_bytes()
    for cut in (512, 700, len(whole) // 2, len(whole) - 10240):
        (tmp_path / "train-000000.tar").write_bytes(whole[:cut])
        assert "train-000000.tar" in refused("precompute", "--data", tmp_path, "--out", tmp_path / "s.zarr")


def test_label_outside_the_classes(refused: Refused, shards: Path, tmp_path: Path) -> None:
    import json

    data = Path(shutil.copytree(shards, tmp_path / "shards"))
    index = json.loads((data / "index.json").read_text())
    index["classes"] = ["only"]
    (data / "index.json").write_text(json.dumps(index))
    message = refused("precompute", "--data", data, "--out", tmp_path / "s.zarr")
    assert "has label" in message
    assert "1 classes (0 to 0)" in message


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("precompute", "--teacher", "ViT-L-23"), "ViT-L-32"),
        (("precompute", "--teacher", "packaged:efficientnet-lite"), "efficientnet-lite0"),
        (("train", "--targets", "STORE", "--student", "vit-tinny", "--augment", "none"), "vit-tiny"),
        (("train", "--targets", "STORE", "--loss", "cross_entropi=1"), "cross_entropy"),
        (("train", "--targets", "STORE", "--set", "optimiser.learning_rate=1"), "optimiser.lr"),
        (("students", "vit-bas"), "vit-base"),
        (("precompute", "--class-prompts", "clop"), "clip"),
        (("precompute", "--teacher", "efficientnet-lite0", "--teacher", "ViT-L-23"), "ViT-L-32"),
    ],
)
def test_unknown_names_say_the_nearest(
    refused: Refused, store: Path, tmp_path: Path, arguments: tuple[str, ...], near: str
) -> None:
    if arguments[0] == "train":
        arguments = (*arguments, "--out", str(tmp_path / "run"))
    assert near in refused(*(str(store) if part == "STORE" else part for part in arguments))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--teacher", "efficientnet-lite0", "--teacher", "packaged:efficientnet-lite0"), "name it once"),
        (("--weights", "imagined"), "precompute.weights"),
        (("--class-prompts", "simple"), "reads text"),
        (("--outputs", "pooled,text"), "it has: pooled, logits"),
    ],
)
def test_what_no_teacher_can_do(
    refused: Refused, shards: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in refused("precompute", "--data", shards, "--out", tmp_path / "s.zarr", *arguments)
    assert not (tmp_path / "s.zarr").exists()


def test_store_from_other_shards(refused: Refused, store: Path, images: Path, tmp_path: Path) -> None:
    from embedkd.sources.pack import pack

    other = pack(images, tmp_path / "other", rows_per_shard=8, val=0.2, test=0.2, seed=1).folder
    assert "other shards" in refused("precompute", "--data", other, "--out", store)


def test_training_with_other_shards(refused: Refused, copy: Path, shards: Path, images: Path, tmp_path: Path) -> None:
    from embedkd.sources.pack import pack

    other = pack(images, tmp_path / "other", rows_per_shard=8, val=0.2, test=0.2, seed=1).folder
    message = refused(*train(copy, other, tmp_path))
    assert re.search(
        r"other/?\S* covers 0 of the 5 shards that \S*store.zarr was made from: \S+.tar is another tar", message
    )
    assert message.endswith("with --data, or precompute a store of the ones you have")
    some = Path(shutil.copytree(shards, tmp_path / "some"))
    for name in ("train-000001.tar", "index.json"):
        (some / name).unlink()
    message = refused(*train(copy, some, tmp_path))
    assert "some covers 4 of the 5 shards" in message
    assert "train-000001.tar cannot be read" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loss", "mse", "--set", "loss_options.mse.output=poled"), "'poled'; did you mean pooled"),
        (("--loss", "kl"), "logits are of 1000 classes, the data has 3"),
        (("--loss", "gradient", "--set", "loss_options.gradient.classes=logits"), "expected classes of width 1280"),
        (("--loss", "sample_contrastive", "--batch-size", 1), "expected at least 2 for sample_contrastive, got 1"),
        (("--recipe", "clip-embed-kd", "--class-set", "n10-seed0"), "did you mean n100-seed0"),
        (("--targets", "STORE"), "expected each teacher once"),
        (("--teacher", "vit"), "unknown teacher of"),
        (("--set", "train.teacher_weights={efficientnet=2}"), "did you mean efficientnet-lite0"),
        (("--loss", "mse@vit-l-32"), "unknown teacher of mse 'vit-l-32'"),
        (("--set", "train.views=2", "--loss", "mse"), "expected at most 0, the stored views of"),
        (
            ("--loss", "class_contrastive", "--set", "loss_options.class_contrastive.standardise=true"),
            "expected none, class_contrastive reads classes",
        ),
    ],
)
def test_what_a_loss_cannot_have(
    refused: Refused, store: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    flags = [store if part == "STORE" else part for part in arguments]
    still = ("--set", "augment.flip=0", "--out", tmp_path / "run")
    assert message in refused("train", "--targets", store, *still, *flags)
    assert not (tmp_path / "run").exists()


def test_stores_of_other_shards_do_not_meet(refused: Refused, store: Path, tmp_path: Path) -> None:
    """The second store has another teacher, and was made of a part of the shards."""
    from dataclasses import replace

    from embedkd.storage import LocalStorage
    from embedkd.store import Pass, PassWriter, create_store, open_store

    mine = open_store(store)
    spec = replace(mine.teacher().spec, name="test:other", model="other")
    shards = [shard for shard in mine.shards if shard.url != "train-000001.tar"]
    other = create_store(
        LocalStorage(tmp_path / "b.zarr"),
        tuple(shards),
        root=mine.manifest.root,
        classes=mine.class_names,
        policy=mine.policy,
    )
    PassWriter(other, spec, Pass(("pooled",), 8, 1, "none"))
    flags = ("--loss", "mse", "--set", "augment.flip=0", "--out", tmp_path / "run")
    message = refused("train", "--targets", store, "--targets", tmp_path / "b.zarr", *flags)
    assert "b.zarr covers 2 of 3 train shards (it lacks train-000001.tar)" in message
    assert "--allow-partial" in message


def test_store_of_another_format(refused: Refused, copy: Path, shards: Path, tmp_path: Path) -> None:
    import json

    from embedkd.records import canonical_json
    from embedkd.store.documents import seal_group

    attributes = json.loads((copy / "zarr.json").read_bytes())["attributes"]["embedkd"]
    del attributes["digest"]
    (copy / "zarr.json").write_bytes(seal_group({**attributes, "format": 2}))
    assert "format 2" in refused(*train(copy, shards, tmp_path))
    (copy / "zarr.json").write_bytes(canonical_json({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    assert "embedkd" in refused(*train(copy, shards, tmp_path))


def test_half_written_store(refused: Refused, embedkd: Command, copy: Path, shards: Path, tmp_path: Path) -> None:
    commits = sorted(copy.glob("teachers/*/pass-*/commits/*.json"))
    commits[0].unlink()
    assert "--allow-partial" in refused(*train(copy, shards, tmp_path))
    assert not (tmp_path / "run").exists()
    code, out, err = embedkd("precompute", "--data", shards, "--out", copy)
    assert code == 0, err
    assert "rows computed" in out
    assert embedkd(*train(copy, shards, tmp_path))[0] == 0


def test_flipped_bit(refused: Refused, copy: Path, shards: Path, tmp_path: Path) -> None:
    victim = max(copy.glob("teachers/*/pooled/c/*/0"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    losses = ("--loss", "cross_entropy", "--loss", "cosine", "--augment", "none")
    message = refused(*train(copy, shards, tmp_path, *losses))
    assert victim.parent.parent.parent.relative_to(copy).as_posix() in message


def test_no_store_there(refused: Refused, tmp_path: Path) -> None:
    assert "embedkd precompute" in refused("train", "--targets", tmp_path / "none.zarr", "--out", tmp_path / "run")


def test_per_sample_losses_with_moving_pixels_ask_first(
    refused: Refused, store: Path, shards: Path, tmp_path: Path
) -> None:
    message = refused(*train(store, shards, tmp_path, "--loss", "cross_entropy", "--loss", "sample_contrastive"))
    assert "--allow-view-mismatch" in message


def test_run_folder_is_not_overwritten(
    refused: Refused, embedkd: Command, store: Path, shards: Path, tmp_path: Path
) -> None:
    assert embedkd(*train(store, shards, tmp_path))[0] == 0
    assert "--resume" in refused(*train(store, shards, tmp_path))
    assert "optimiser.lr" in refused(*train(store, shards, tmp_path), "--resume", "--lr", "0.5")


def test_gigantic_and_broken_images_keep_their_rows(embedkd: Command, tmp_path: Path) -> None:
    """Decode errors cost a row each, not the run; the samples around them stay where they are."""
    import io
    import struct
    import zlib

    import numpy as np
    from PIL import Image

    from embedkd.store import open_store

    good = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(good, "PNG")
    members = [("a.png", good.getvalue()), ("b.png", b""), ("c.png", good.getvalue()[:60]), ("d.txt", b"no image")]
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    members += [("e.png", bomb), *((f"f{i}.png", good.getvalue()) for i in range(40))]
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    code, out, err = embedkd("precompute", "--data", tmp_path, "--out", tmp_path / "s.zarr", "--outputs", "pooled")
    assert code == 0, err
    assert "3 decode error" in out
    assert "1 field missing" in out
    assert "'b' of train-000000.tar" in err
    status = open_store(tmp_path / "s.zarr").teacher().read(0, "pooled").status
    assert status[:6].tolist() == [1, 2, 2, 3, 2, 1]


def test_a_teacher_that_cannot_be_had_leaves_no_store(refused: Refused, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    refused("precompute", "--teacher", f"vit:{tmp_path / 'model'}", "--data", shards, "--out", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
