import contextlib
import json
import pickle
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import embedkd.teachers.openclip_model as models
import embedkd.teachers.openclip_tokens as tokens
from embedkd.errors import TeacherError, UnknownNameError
from embedkd.teachers import LoadOptions, Teacher, load_teacher
from tests.teachers.clipart import pictures
from tests.teachers.clips import ARCHITECTURES, edit_config, save_clip

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clips")
    return {name: save_clip(root / name, name) for name in ("own", "custom", "siglip", "mobile")}


@pytest.fixture(scope="module")
def own(folders: dict[str, Path]) -> Teacher:
    return load_teacher(f"openclip:{folders['own']}")


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["own"], tmp_path / "copy"))


def refusal(name: str) -> str:
    with pytest.raises(TeacherError) as caught:
        load_teacher(name)
    return str(caught.value)


def batch(teacher: Teacher) -> Tensor:
    return torch.stack([teacher.preprocess(image) for image in pictures()])


def test_the_fingerprint_is_that_of_the_weights_not_of_their_file(own: Teacher, copy: Path) -> None:
    moved = load_teacher(f"openclip:{copy}").spec
    torch.save(load_file(copy / WEIGHTS), copy / "open_clip_pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    pickled = load_teacher(f"openclip:{copy}").spec
    edit_config(copy, "preprocess_cfg", mean=[0.1] * 3)
    other = load_teacher(f"openclip:{copy}").spec
    assert own.spec.fingerprint == moved.fingerprint == pickled.fingerprint != other.fingerprint
    assert own.spec.weights_sha256 == other.weights_sha256


def test_safetensors_come_before_pickles(own: Teacher, copy: Path) -> None:
    (copy / "open_clip_pytorch_model.bin").write_bytes(b"no pickle")
    assert load_teacher(f"openclip:{copy}").spec.fingerprint == own.spec.fingerprint


def test_a_training_checkpoint_loads_with_a_config_beside_it(own: Teacher, copy: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in load_file(copy / WEIGHTS).items()}
    file = copy / "epoch_3.pt"
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}}}, file)
    (copy / WEIGHTS).unlink()
    spec = load_teacher(f"openclip:ViT-B-32@{file}").spec
    assert spec.fingerprint == own.spec.fingerprint
    assert spec.name == "openclip:ViT-B-32"
    (copy / "open_clip_config.json").unlink()
    first, second = refusal(f"openclip:ViT-B-32@{file}").splitlines()
    assert "holds weights alone, and nothing says how its images are prepared" in first
    assert second.startswith('{"preprocess_cfg": {"mean": [')


def test_text_towers_of_older_checkpoints_are_renamed_as_open_clip_does(folders: dict[str, Path], copy: Path) -> None:
    state = load_file(folders["custom"] / WEIGHTS)
    old = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    shutil.copy(folders["custom"] / "open_clip_config.json", copy)
    old["logit_scale"] = old["logit_scale"].reshape(1)
    save_file(old | {"context_length": torch.tensor(16)}, copy / WEIGHTS)
    loaded = load_teacher(f"openclip:{copy}").spec
    assert loaded.fingerprint == load_teacher(f"openclip:{folders['custom']}").spec.fingerprint


def test_a_tag_fetches_its_repository(copy: Path, own: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = copy.rename(copy.parent / ("cd" * 20))
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    asked: list[tuple[Any, ...]] = []

    def fetch(*arguments: Any) -> Path:
        asked.append(arguments)
        return snapshot

    monkeypatch.setattr(models, "fetch_folder", fetch)
    repo = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    for name in ("openclip:ViT-B-32@laion2b_s34b_b79k", "openclip:ViT-B-32"):
        spec = load_teacher(name).spec
        assert asked.pop()[:2] == (repo, name)
        assert (spec.name, spec.source, spec.revision, spec.licence) == (name, repo, "cd" * 20, "mit")
        assert spec.fingerprint == own.spec.fingerprint
    edit_config(snapshot, "preprocess_cfg", mean=None)  # then the tag's own, as open_clip has it
    assert load_teacher("openclip:ViT-B-32").spec.preprocess.mean == (0.48145466, 0.4578275, 0.40821073)


def test_random_weights_need_no_files_and_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: deepcopy(ARCHITECTURES["resnet"]))
    state = torch.get_rng_state()
    name = "openclip:RN50@cc12m"
    teacher, again, other = (load_teacher(name, LoadOptions(random_seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert teacher.spec.fingerprint == again.spec.fingerprint != other.spec.fingerprint
    assert (teacher.spec.random_weights, teacher.spec.source) == (True, "random weights, seed 3")
    assert '"quick_gelu": true' in teacher.spec.model  # as the tag's weights were trained
    assert teacher.spec.preprocess.mean == (0.48145466, 0.4578275, 0.40821073)
    rows = teacher.embed(batch(teacher), ["image"])["image"]
    assert len(torch.unique(rows.half(), dim=0)) == len(rows)


def test_random_weights_do_without_a_tokenizer_that_must_be_fetched(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> Path:
        raise TeacherError("cannot get it\nfetch it")

    monkeypatch.setattr(tokens, "fetch_folder", fetch)
    folder = Path(shutil.copytree(folders["siglip"], tmp_path / "bare"))
    for file in folder.glob("*token*"):
        file.unlink()
    drawn = load_teacher(f"openclip:{folder}", LoadOptions(random_seed=0))
    assert [output.name for output in drawn.spec.outputs] == ["image", "cls", "patch_mean"]
    assert drawn.tokenize is None
    first, second = refusal(f"openclip:{folder}").splitlines()
    assert first.endswith("has no tokenizer (tokenizer.json or tokenizer_config.json), and cannot get it")
    assert second == "fetch it"


def test_names_without_weights_list_the_tags() -> None:
    first, second = refusal("openclip:ViT-B-32-256").splitlines()
    assert "say which, as in openclip:ViT-B-32-256@datacomp_s34b_b86k" in first
    assert second == "its tags: datacomp_s34b_b86k"
    with pytest.raises(UnknownNameError, match="unknown tag of ViT-B-32 'laion2b_s34b'; did you mean laion2b_"):
        load_teacher("openclip:ViT-B-32@laion2b_s34b")


def test_a_tag_with_an_address_only_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"url": "https://example.org/w.pt", "hf_hub": "", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: config)
    first, second = refusal("openclip:ViT-B-32@openai").splitlines()
    assert first.endswith("at an address only: https://example.org/w.pt")
    assert second == "download that file and say `--teacher openclip:ViT-B-32@FILE`"


def test_weights_that_do_not_fit_are_listed(copy: Path) -> None:
    state = load_file(copy / WEIGHTS)
    state["visual.positional_embedding"] = torch.zeros(5, 64)  # open_clip would stretch it in silence
    del state["ln_final.bias"]
    save_file(state, copy / WEIGHTS)
    first, second = refusal(f"openclip:{copy}").splitlines()
    assert first == f"the weights of '{copy}' do not fit its model, 2 differences"
    assert second == "ln_final.bias is missing; visual.positional_embedding is [5, 64], the model expects [17, 64]"


@pytest.mark.parametrize("missing", ["mean", "std"])
def test_a_config_that_leaves_the_pixels_to_be_guessed_says_what_to_add(copy: Path, missing: str) -> None:
    edit_config(copy, "preprocess_cfg", **{missing: None})
    first, second = refusal(f"openclip:{copy}").splitlines()
    assert f"lacks {missing} in its preprocess_cfg" in first
    assert '"preprocess_cfg": {"mean": [' in second


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("model_cfg.vision_cfg", {"layers": 10**9}, "has layers 1000000000, expected at most 1000"),
        ("model_cfg.vision_cfg", {"width": 10**9}, "has width 1000000000, expected at most 65536"),
        ("model_cfg.vision_cfg", {"width": 32_768}, "the file holds"),
        ("model_cfg.vision_cfg", {"image_size": 8_192, "patch_size": 1}, "too many"),
        ("model_cfg.vision_cfg", {"head_width": 0}, "describes no model"),
        ("model_cfg.vision_cfg", {"surprise": 1}, "describes no model"),
        ("model_cfg.text_cfg", {"context_length": 10**6}, "has context_length 1000000, expected at most 4096"),
        ("model_cfg.text_cfg", {"tokenizer_kwargs": {"reduction_mask": "random"}}, "option reduction_mask to 'random'"),
        ("model_cfg.text_cfg", {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, "option bpe_path to '/etc/passwd'"),
        ("model_cfg.text_cfg", {"tokenizer_kwargs": {"clean": "none"}}, "describes no tokenizer"),
        ("preprocess_cfg", {"resize_mode": "sideways"}, "preprocess_cfg that open_clip refuses"),
        ("preprocess_cfg", {"mode": "L"}, "preprocess_cfg that open_clip refuses"),
        ("preprocess_cfg", {"std": [0.5, 0, 0.5]}, "expected positive numbers"),
    ],
)
def test_a_config_that_cannot_be(copy: Path, part: str, changes: dict[str, Any], says: str) -> None:
    edit_config(copy, part, **changes)
    assert says in refusal(f"openclip:{copy}")


@pytest.mark.parametrize("trunk", ["hf-hub:stranger/model", "local-dir:/tmp", "no_such_model"])
def test_an_image_tower_is_one_of_timms_own(folders: dict[str, Path], tmp_path: Path, trunk: str) -> None:
    folder = Path(shutil.copytree(folders["mobile"], tmp_path / "copy"))
    edit_config(folder, "model_cfg.vision_cfg", timm_model_name=trunk)
    with pytest.raises(UnknownNameError, match="unknown timm model"):
        load_teacher(f"openclip:{folder}")


def test_a_text_tower_of_transformers_needs_its_config_and_no_code(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> Path:
        raise TeacherError("cannot get nobody/bert\nfetch it")

    monkeypatch.setattr(models, "fetch_folder", fetch)
    edit_config(copy, "model_cfg.text_cfg", hf_model_name="nobody/bert")
    first, second = refusal(f"openclip:{copy}").splitlines()
    assert first.endswith("has the text tower nobody/bert, and cannot get nobody/bert")
    assert second.endswith(f"`hf download nobody/bert config.json --local-dir {copy / 'bert'}`")
    (copy / "bert").mkdir()
    (copy / "bert" / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    assert "asks for code of its own; refused" in refusal(f"openclip:{copy}")


def test_a_tokenizer_with_code_never_runs_it(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["siglip"], tmp_path / "copy"))
    witness = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(witness)!r}, 'w')\nclass Words: ...\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Words", "evil.Words"]}, "tokenizer_class": "Words"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with contextlib.suppress(TeacherError):
        load_teacher(f"openclip:{folder}")
    edit_config(folder, "model_cfg.text_cfg", tokenizer_kwargs={"trust_remote_code": True})
    assert "sets the tokenizer's option trust_remote_code to True" in refusal(f"openclip:{folder}")
    assert not witness.exists()


def test_a_pickle_with_code_is_refused_and_named(copy: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    (copy / WEIGHTS).unlink()
    assert "holds no weights: expected open_clip_model.safetensors" in refusal(f"openclip:{copy}")
    (copy / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert "open_clip_pytorch_model.bin' is a pickle that holds more" in refusal(f"openclip:{copy}")
    assert not (tmp_path / "ran").exists()
