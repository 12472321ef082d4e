"""Students that begin with weights."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from embedkd.errors import ConfigError
from embedkd.students import IMAGENET_MEAN, StudentOptions, TimmStudent, build_student, resolve_name
from embedkd.students.weights import find_weights

Pixels = Callable[[int, int], torch.Tensor]


@pytest.fixture(scope="module")
def donor() -> Any:
    torch.manual_seed(3)
    model = timm.create_model("test_vit", num_classes=7, img_size=32).eval()
    model.pos_embed.data.normal_()
    return model


@pytest.fixture(scope="module")
def file(donor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("donor") / "donor.safetensors"
    safetensors.torch.save_file(donor.state_dict(), path)
    return path


def begin(weights: Path, *, num_classes: int = 7, image_px: int = 32, seed: int = 0, **options: Any) -> TimmStudent:
    return build_student(
        f"timm:test_vit@{weights}",
        num_classes=num_classes,
        image_px=image_px,
        options=StudentOptions(**options),
        seed=seed,
    )


def test_a_student_of_the_same_classes_answers_as_the_donor(donor: Any, file: Path, draw_pixels: Pixels) -> None:
    student = begin(file, drop_path=0.2).eval()

    assert torch.equal(student(draw_pixels(2, 32)).logits, donor(draw_pixels(2, 32)))
    assert student.begun_from is not None
    assert student.begun_from.startswith("donor.safetensors (blake2b ")


def test_other_classes_draw_the_classifier_alone(donor: Any, file: Path) -> None:
    first, same, other = (begin(file, num_classes=3, seed=seed).state_dict() for seed in (1, 1, 2))

    for name, tensor in donor.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(first[f"model.{name}"], tensor)
    assert first["model.head.weight"].shape == (3, 64)
    assert torch.equal(first["model.head.weight"], same["model.head.weight"])
    assert not torch.equal(first["model.head.weight"], other["model.head.weight"])


def test_weights_without_classifier_serve_too(donor: Any, tmp_path: Path) -> None:
    path = tmp_path / "body.safetensors"
    safetensors.torch.save_file({k: v for k, v in donor.state_dict().items() if not k.startswith("head.")}, path)

    student = begin(path)

    assert torch.equal(student.model.pos_embed, donor.pos_embed)
    assert student.model.head.weight.shape == (7, 64)


def test_positions_are_resized_to_other_images(donor: Any, file: Path, draw_pixels: Pixels) -> None:
    student = begin(file, image_px=64)

    assert student.model.pos_embed.shape == (1, 17, 64)
    assert torch.equal(student.model.blocks[0].attn.qkv.weight, donor.blocks[0].attn.qkv.weight)
    # Corners of the grown grid stay nearest to the corners of the grid that it grew from.
    grown, old = student.model.pos_embed[0, 1:].reshape(4, 4, 64), donor.pos_embed[0, 1:].reshape(2, 2, 64)
    similarity = torch.nn.functional.cosine_similarity(grown[0, 0], old.reshape(4, 64))
    assert int(similarity.argmax()) == 0
    assert student(draw_pixels(2, 64)).logits.shape == (2, 7)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"model": {f"model.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {k: torch.zeros_like(v) for k, v in state.items()}, "state_dict_ema": state},
    ],
)
def test_checkpoints_of_trainers_are_understood(
    donor: Any, wrap: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path, draw_pixels: Pixels
) -> None:
    torch.save(wrap(donor.state_dict()), tmp_path / "checkpoint.pth")

    student = begin(tmp_path / "checkpoint.pth").eval()

    assert torch.equal(student(draw_pixels(2, 32)).logits, donor(draw_pixels(2, 32)))


AUTHORS_NAMES = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"),
    (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
    (r"conv_dw", "dwconv"),
    (r"mlp\.fc", "pwconv"),
    (r"^head\.norm", "norm"),
    (r"^head\.fc", "head"),
)


def test_names_of_a_model_s_authors_are_translated(tmp_path: Path, draw_pixels: Pixels) -> None:
    model = timm.create_model("test_convnext").eval()
    theirs = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in AUTHORS_NAMES:
            name = re.sub(pattern, replacement, name)
        theirs[name] = tensor
    assert not theirs.keys() & {"stem.0.weight", "head.fc.weight"}
    safetensors.torch.save_file(theirs, tmp_path / "theirs.safetensors")

    student = build_student(f"timm:test_convnext@{tmp_path / 'theirs.safetensors'}", num_classes=1000, image_px=32)

    assert torch.equal(student.eval()(draw_pixels(2, 32)).logits, model(draw_pixels(2, 32)))


def test_a_folder_of_timm_tells_what_its_images_were_normalised_by(donor: Any, tmp_path: Path) -> None:
    timm.models.save_for_hf(
        donor, tmp_path, safe_serialization=True, data_config={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    )

    student = begin(tmp_path)

    assert (student.mean, student.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


def test_a_file_alone_takes_imagenet_s_numbers_or_those_of_its_tag(file: Path) -> None:
    bare, tagged = (find_weights(resolve_name(f"timm:{model}@{file}")) for model in ("test_vit", "test_vit.r160_in1k"))

    assert bare is not None
    assert tagged is not None
    assert bare.mean == IMAGENET_MEAN
    assert tagged.mean == tuple(timm.get_pretrained_cfg("test_vit.r160_in1k").mean) != IMAGENET_MEAN


def test_a_run_folder_gives_its_student(tmp_path: Path) -> None:
    student = build_student("vit-tiny", num_classes=3, image_px=32, seed=5)
    safetensors.torch.save_file(student.state_dict(), tmp_path / "student.safetensors")
    (tmp_path / "student.json").write_text(json.dumps({"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}))

    found = build_student(f"vit-tiny@{tmp_path}", num_classes=3, image_px=32)

    assert found.mean == (0.1, 0.2, 0.3)
    for name, tensor in student.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_holds_more_than_tensors_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match="holds more than tensors and numbers"):
        begin(tmp_path / "evil.pth")

    assert not (tmp_path / "ran").exists()


def test_weights_of_another_model_are_told(donor: Any, file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"donor.safetensors .* holds no weights of resnet18: .* is missing; .*and \d+ more"
    ):
        build_student(f"timm:resnet18@{file}", num_classes=7, image_px=32)


def test_weights_of_another_shape_are_told(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no weights of test_vit: blocks.\d.mlp.fc.* is \[.*, expected \["):
        begin(file, extra={"mlp_ratio": 2.0})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "cannot read weights .*: No such file"),
        (b"", "is no whole file of safetensors"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "is no whole file of safetensors"),
        (safetensors.torch.save({}), "holds no tensor"),
    ],
)
def test_files_that_hold_no_weights_are_told(write: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    if write is not None:
        path.write_bytes(write)

    with pytest.raises(ConfigError, match=message):
        begin(path)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no weights; expected model.safetensors, student.safetensors or"):
        begin(tmp_path)


def test_a_tag_that_timm_lacks_is_told() -> None:
    with pytest.raises(ConfigError, match=r"timm has no weights resnet18.nonsense; its tags: .*a1_in1k"):
        build_student("timm:resnet18.nonsense", num_classes=3, image_px=32)


class Hub:
    """Stands for the hub's client."""

    def __init__(self, file: Path | None = None, *, cached: bool = False) -> None:
        self.file, self.cached, self.asked = file, cached, list[str]()

    def hf_hub_download(self, repo: str, name: str, *, local_files_only: bool = False) -> str:
        self.asked.append(f"{'cache' if local_files_only else 'hub'} {repo} {name}")
        if local_files_only and not self.cached:
            raise LocalEntryNotFoundError("not cached")
        return str(self.file)

    def model_info(self, repo: str, *, timeout: float) -> None:
        self.asked.append(f"ask {repo} {timeout:.0f} s")
        if self.file is None:
            raise OSError("no route to host\nand much more")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hub], Hub]:
    def install(made: Hub) -> Hub:
        monkeypatch.setattr("huggingface_hub.hf_hub_download", made.hf_hub_download)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: made)
        return made

    return install


def test_a_hub_out_of_reach_is_told_in_two_lines(hub: Callable[[Hub], Hub]) -> None:
    hub(Hub())

    with pytest.raises(ConfigError) as caught:
        build_student("timm:resnet18.a1_in1k", num_classes=3, image_px=32)

    assert str(caught.value) == (
        "cannot get timm/resnet18.a1_in1k from the Hugging Face hub: no route to host\n"
        "fetch the weights where it can be reached, and say --student timm:resnet18.a1_in1k@FILE"
    )


@pytest.mark.parametrize("cached", [False, True])
def test_a_tag_fetches_from_the_hub_once(file: Path, hub: Callable[[Hub], Hub], donor: Any, cached: bool) -> None:
    made = hub(Hub(file, cached=cached))

    student = build_student("timm:test_vit.r160_in1k", num_classes=7, image_px=32)

    repo = "timm/test_vit.r160_in1k"
    first, rest = f"cache {repo} model.safetensors", [f"ask {repo} 5 s", f"hub {repo} model.safetensors"]
    assert made.asked == [first, *([] if cached else rest)]
    assert torch.equal(student.model.head.weight, donor.head.weight)
    assert student.begun_from == "timm/test_vit.r160_in1k of the Hugging Face hub"
    assert student.mean == (0.5, 0.5, 0.5)
