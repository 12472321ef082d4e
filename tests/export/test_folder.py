"""Exports as timm and embedkd load them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import embedkd
from embedkd.errors import EmbedKDError, TrainingError
from embedkd.export import export_run
from embedkd.records import blake2b_hex
from embedkd.rundir import RunDir, read_json, write_json
from embedkd.students import build_student
from tests.export.conftest import make_run

RunOf = Callable[..., RunDir]

KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "vit-tiny": (24, {"patch_px": 6, "drop_path": 0.1, "dropout": 0.1, "mask_ratio": 0.5, "taps": ("cls@1",)}),
    "timm:test_resnet": (40, {"drop_path": 0.1}),
    "timm:test_vit2": (32, {"patch_px": 8, "extra": {"drop_rate": 0.1, "mlp_ratio": 2.0}}),
    "torchvision:mobilenet_v3_small": (32, {}),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that tests copy, or only read."""
    run = make_run(tmp_path_factory.mktemp("exported") / "run")
    return Path(export_run(run.path).folder)


def draw_pixels(image_px: int) -> torch.Tensor:
    return torch.randn(3, 3, image_px, image_px, generator=torch.Generator().manual_seed(4))


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 83, 3), np.uint8))


@pytest.mark.parametrize("name", KINDS)
def test_a_student_comes_back_from_its_export_as_from_its_run(name: str, run_of: RunOf) -> None:
    image_px, options = KINDS[name]
    run = run_of(name, image_px, **options)
    result = export_run(run.path)

    student, card = embedkd.load_student(result.folder)
    expected, theirs = embedkd.load_student(run.path)

    assert not student.training
    pixels = draw_pixels(image_px)
    assert torch.equal(student(pixels).logits, expected(pixels).logits)
    assert torch.equal(student(pixels).embedding, expected(pixels).embedding)
    assert (card.class_names, card.val_top1, card.weights_blake2b) == (("a", "b", "c"), 0.5, theirs.weights_blake2b)
    assert result.parameters == card.parameters == sum(p.numel() for p in student.parameters())
    assert result.size_bytes == (Path(result.folder) / "model.safetensors").stat().st_size
    assert list(result.latency.median_ms) == [1, 32]
    assert all(time_ms > 0 for time_ms in result.latency.median_ms.values())


TIMM_ALONE = """
import importlib.abc, sys

class Ban(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "embedkd":
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Ban())
import timm, torch
from PIL import Image

torch.set_num_threads(1)
for folder in sys.argv[1:]:
    model = timm.create_model(f"local-dir:{folder}/export", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    image = Image.open(f"{folder}/image.png")
    with torch.inference_mode():
        logits = model(torch.load(f"{folder}/pixels.pt", weights_only=True))
    names = model.pretrained_cfg["label_names"]
    torch.save({"logits": logits, "view": prepare(image), "names": names}, f"{folder}/timm.pt")
"""


def test_timm_loads_every_kind_without_embedkd(run_of: RunOf, tmp_path: Path) -> None:
    folders = []
    for number, (name, (image_px, options)) in enumerate(KINDS.items()):
        run = run_of(name, image_px, folder=str(number), **options)
        export_run(run.path)
        picture().save(run.path / "image.png")
        torch.save(draw_pixels(image_px), run.path / "pixels.pt")
        folders.append(run.path)

    done = subprocess.run(
        [sys.executable, "-c", TIMM_ALONE, *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    for folder in folders:
        theirs = torch.load(folder / "timm.pt", weights_only=True)
        student, card = embedkd.load_student(folder)
        pixels = torch.load(folder / "pixels.pt", weights_only=True)
        torch.testing.assert_close(theirs["logits"], student(pixels).logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs["view"], card.view()(picture()))
        assert theirs["names"] == ["a", "b", "c"]


def test_a_student_can_begin_with_an_export(run_of: RunOf) -> None:
    run = run_of("timm:test_resnet")
    folder = export_run(run.path).folder

    again = build_student(f"timm:test_resnet@{folder}", num_classes=3, image_px=32).eval()

    expected, _ = embedkd.load_student(run.path)
    assert torch.equal(again(draw_pixels(32)).logits, expected(draw_pixels(32)).logits)


def test_a_folder_of_another_student_is_kept(run_of: RunOf, tmp_path: Path) -> None:
    one, other = run_of(folder="one"), run_of(folder="other", seed=1)
    export_run(one.path, out=tmp_path / "export")
    before = (tmp_path / "export" / "model.safetensors").read_bytes()

    with pytest.raises(
        TrainingError, match=r"export holds another model; remove it, or name another folder with --out"
    ):
        export_run(other.path, out=tmp_path / "export")

    assert (tmp_path / "export" / "model.safetensors").read_bytes() == before
    export_run(one.path, out=tmp_path / "export")


def test_a_model_of_timm_s_own_is_kept(run_of: RunOf, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')

    with pytest.raises(TrainingError, match="holds another model"):
        export_run(run_of().path, out=tmp_path)
    with pytest.raises(TrainingError, match="was not made by embedkd export; let timm load it"):
        embedkd.load_student(tmp_path)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no student; expected a run folder, or one that embedkd export made"):
        embedkd.load_student(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "cannot read .*model.safetensors: No such file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), "is not the file that config.json was written"),
        (lambda f: _set(f, "files", {}), "has no model.safetensors; export the run with --format safetensors"),
        (lambda f: _set(f, "files", "none"), "has no model.safetensors"),
        (lambda f: _set(f, "student", []), "was not made by embedkd export"),
        (lambda f: _card(f, name="vit-base"), "holds no vit-base: expected 4,7.* parameters, got 8"),
        (lambda f: _card(f, name="vit-basement"), "unknown student 'vit-basement'"),
        (lambda f: _card(f, num_classes=1 << 40), "are out of bounds"),
        (lambda f: _card(f, mean=[0.5]), "are out of bounds"),
        (lambda f: _card(f, num_classes=2), "holds no vit-tiny: Error.* in loading state_dict"),
        (lambda f: _card(f, format=7), "is of another format than 1"),
        (lambda f: _card(f, options={"extra": {"embed_dim": 1 << 20}}), "expected options.embed_dim of at most 65536"),
        (lambda f: _card(f, options={"extra": {"checkpoint_path": "x"}}), "unknown key of student.options"),
        (lambda f: _card(f, options={"extra": 7}), "is no card of a student"),
        (lambda f: _card(f, surprise=1), "is no card of a student"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_folder_that_was_changed_is_refused(change: Callable[[Path], object], message: str, run_of: RunOf) -> None:
    folder = Path(export_run(run_of().path).folder)
    change(folder)

    with pytest.raises(EmbedKDError, match=message):
        embedkd.load_student(folder)


def _set(folder: Path, name: str, value: object) -> None:
    document = read_json(folder / "config.json")
    document["embedkd"][name] = value
    write_json(folder / "config.json", document)


def _card(folder: Path, **facts: object) -> None:
    document = read_json(folder / "config.json")
    document["embedkd"]["student"].update(facts)
    write_json(folder / "config.json", document)


def test_a_file_that_vouches_for_itself_and_holds_no_tensors_is_told(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"12345678")
    _set(folder, "files", {"model.safetensors": {"bytes": 8, "blake2b": blake2b_hex(b"12345678")}})

    with pytest.raises(TrainingError, match="is no file of safetensors"):
        embedkd.load_student(folder)


def test_weights_have_timm_s_own_names_and_nothing_is_random_any_more(run_of: RunOf) -> None:
    exported = Path(export_run(run_of(drop_path=0.1, dropout=0.1, mask_ratio=0.5).path).folder)

    state = safetensors.torch.load_file(exported / "model.safetensors")
    config = json.loads((exported / "config.json").read_bytes())

    assert "blocks.0.attn.qkv.weight" in state
    assert config["architecture"] == "vit_base_patch16_224"
    assert config["model_args"]["embed_dim"] == 128
    assert not any("drop" in name for name in config["model_args"])
