import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import dynamic_module_utils

from embedkd.errors import TeacherError
from embedkd.teachers import LoadOptions, ResolvedName, load_teacher, transformers_folder
from embedkd.teachers.transformers_folder import describe_architecture, open_folder, provenance, read_config
from tests.teachers.clipart import pictures
from tests.teachers.saved_transformers import edit_json, save_kind

CODE = """
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

Path({witness!r}).touch()


class OwnConfig(PreTrainedConfig):
    model_type = "own"
    width: int = 4


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.proj = torch.nn.Linear(3, config.width)
        self.post_init()

    def forward(self, pixel_values):
        pooled = self.proj(pixel_values.mean((2, 3)))
        return BaseModelOutputWithPooling(last_hidden_state=pixel_values, pooler_output=pooled)
"""
AUTO_MAP = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kind("vit", tmp_path_factory.mktemp("vit"))


@pytest.fixture
def copy(vit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vit, tmp_path / "copy"))


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def own(copy: Path, witness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose model is code of its own; running it leaves a witness."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (copy / "own.py").write_text(CODE.format(witness=str(witness)))
    document = {"model_type": "own", "width": 4, "architectures": ["OwnModel"], "auto_map": AUTO_MAP}
    (copy / "config.json").write_text(json.dumps(document))
    save_file({"proj.weight": torch.ones(4, 3), "proj.bias": torch.arange(4.0)}, copy / "model.safetensors")
    yield copy
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def refusal(name: str, **options: Any) -> list[str]:
    with pytest.raises(TeacherError) as caught:
        load_teacher(name, LoadOptions(**options))
    return str(caught.value).splitlines()


@pytest.mark.parametrize("trusted", [None, "another/folder", "own", "OwnModel"])
def test_code_of_a_folder_never_runs_unasked(own: Path, witness: Path, trusted: str | None) -> None:
    first, second = refusal(f"hf:{own}", trusted_code=trusted)
    assert first.startswith(f"'{own}/config.json' asks for model code of its own (auto_map); refused")
    assert second == f"read that code; where you trust it, say --trust-code {own}"
    assert not witness.exists()
    assert not any(name.startswith("transformers_modules") for name in sys.modules)


def test_code_runs_where_its_folder_is_named(own: Path, witness: Path) -> None:
    teacher = load_teacher(f"hf:{own}", LoadOptions(trusted_code=str(own)))
    assert witness.exists()
    pixels = torch.stack([teacher.preprocess(image) for image in pictures()])
    expected = pixels.mean((2, 3)).sum(1, keepdim=True) + torch.arange(4.0)
    torch.testing.assert_close(teacher.embed(pixels, ["pooled"])["pooled"], expected)
    assert [output.name for output in teacher.spec.outputs] == ["pooled"]
    assert teacher.backbone is None
    edit_json(own / "config.json", width=5)
    assert "do not fit" in refusal(f"hf:{own}", trusted_code=str(own))[0]


def test_trust_ends_at_the_repository_that_was_named(own: Path, witness: Path) -> None:
    edit_json(own / "preprocessor_config.json", auto_map={"AutoImageProcessor": "stranger/model--own.OwnModel"})
    (said,) = refusal(f"hf:{own}", trusted_code=str(own))
    assert said.startswith(f"'{own}/preprocessor_config.json' asks for code of another repository than {own}")
    assert not witness.exists()


@pytest.mark.parametrize(
    "file", ["config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_code_is_asked_for_in_any_document(copy: Path, witness: Path, file: str, *, nested: bool) -> None:
    (copy / "own.py").write_text(CODE.format(witness=str(witness)))
    asked = {"AutoModel": "own.OwnModel", "AutoImageProcessor": "own.OwnModel", "AutoTokenizer": ["own.OwnModel", None]}
    document = json.loads((copy / file).read_text()) if (copy / file).is_file() else {}
    inner = {"image_processor": {"auto_map": asked}} if nested else {"auto_map": asked}
    (copy / file).write_text(json.dumps(document | inner))
    assert f"'{copy}/{file}' asks for model code" in refusal(f"vit:{copy}")[0]
    assert not witness.exists()


def test_the_vit_family_runs_no_code_even_where_it_is_trusted(own: Path, witness: Path) -> None:
    copy = own
    edit_json(copy / "config.json", model_type="vit")
    assert refusal(f"vit:{copy}", trusted_code=str(copy)) == [f"vit: runs no code of a folder; say hf:{copy}"]
    assert not witness.exists()
    assert load_teacher(f"hf:{copy}", LoadOptions(random_seed=0, trusted_code=str(copy))).spec.output("pooled")
    assert witness.exists()


def test_keys_that_name_kernels_are_not_read(copy: Path, vit: Path) -> None:
    edit_json(
        copy / "config.json",
        attn_implementation="stranger/kernel",
        _attn_implementation="x/y",
        quantization_config={"quant_method": "bitsandbytes"},
        output_hidden_states=True,
        return_dict=False,
        chunk_size_feed_forward=1,
    )
    assert load_teacher(f"vit:{copy}").spec.fingerprint == load_teacher(f"vit:{vit}").spec.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": [32, 32]},
        {"patch_size": [8, 8]},
        {"hidden_dropout_prob": 0.5},
        {"initializer_range": 0.5},
        {"qkv_bias": True},
        {"architectures": None},
        {"transformers_version": "4.9"},
    ],
)
def test_the_architecture_is_one_line_however_it_is_written(copy: Path, vit: Path, changes: dict[str, object]) -> None:
    edit_json(copy / "config.json", **changes)
    lines = [describe_architecture("Model", read_config(folder, trusted=False)) for folder in (vit, copy)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("changes", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-6}, {"patch_size": 4}])
def test_what_decides_values_is_in_that_line(copy: Path, vit: Path, changes: dict[str, object]) -> None:
    edit_json(copy / "config.json", **changes)
    lines = [describe_architecture("Model", read_config(folder, trusted=False)) for folder in (vit, copy)]
    assert lines[0] != lines[1]
    assert next(iter(changes)) in lines[1]


def test_depths_are_bounded_wherever_they_stand(copy: Path) -> None:
    edit_json(copy / "config.json", decoder={"num_decoder_layers": 5000})
    with pytest.raises(TeacherError, match="has num_decoder_layers 5000, expected 1 to 1000"):
        read_config(copy, trusted=False)


def test_a_card_names_the_licence(copy: Path) -> None:
    name = ResolvedName("hf:x", "hf", "x", str(copy), weights=str(copy))
    assert provenance(name, LoadOptions(), copy, None)["licence"] is None
    (copy / "README.md").write_text("---\nlibrary_name: transformers\nlicense: mit\n---\n# A model\nlicense: none\n")
    assert provenance(name, LoadOptions(), copy, None)["licence"] == "mit"
    assert provenance(name, LoadOptions(random_seed=1), copy, None)["licence"] is None


def test_a_file_without_a_known_model_says_what_it_lacks(copy: Path) -> None:
    file = str(copy / "model.safetensors")
    name = ResolvedName("hf:organisation/model", "hf", "organisation/model", file, weights=file)
    with (
        pytest.raises(TeacherError, match="is a file, and nothing tells its config"),
        open_folder(name, LoadOptions(), {}),
    ):
        pass


def test_a_name_of_the_hub_is_fetched(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = copy.rename(copy.parent / ("0123456789" * 4))
    monkeypatch.setattr(transformers_folder, "fetch_folder", lambda *_, **__: snapshot)
    edit_json(snapshot / "config.json", model_type="vit_msn")
    (snapshot / "model.safetensors").unlink()
    spec = load_teacher("hf:organisation/model", LoadOptions(random_seed=0)).spec
    assert (spec.name, spec.revision) == ("hf:organisation/model", None)
    edit_json(snapshot / "config.json", auto_map=AUTO_MAP)
    assert refusal("hf:organisation/model")[1].endswith("say --trust-code organisation/model")
