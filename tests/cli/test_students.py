import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command

Refused = Callable[..., str]


def test_the_list_names_the_paper_s_students_and_the_families(embedkd: Command) -> None:
    code, out, _ = embedkd("students")

    assert code == 0
    for said in ("vit-tiny", "4.79 M", "timm:NAME", "torchvision:NAME"):
        assert said in out


def test_one_student_tells_its_cost_width_and_taps(embedkd: Command) -> None:
    code, out, _ = embedkd("students", "timm:test_resnet", "--image-px", "64", "--classes", "10", "--json")
    facts = json.loads(out)

    assert code == 0
    assert (facts["parameters"], facts["embedding_dim"], facts["image_px"]) == (373_658, 96, 64)
    assert facts["multiply_adds"] > 10_000_000
    assert facts["taps"]["patch_mean@4"] == 96
    assert "drop_path" in facts["options"]
    assert "mask_ratio" not in facts["options"]


def test_one_student_for_people(embedkd: Command) -> None:
    code, out, _ = embedkd("students", "vit-base")

    assert code == 0
    assert "4,794,468" in out
    assert "mask_ratio" in out
    assert "use it: embedkd train --targets STORE --student vit-base --image-px 32" in out


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("timm:test_vit?", ["timm:test_vit2", "timm:test_vit3", "timm:test_vit4"]),
        ("vit-*", ["vit-tiny", "vit-base", "vit-large"]),
        ("torchvision:swin_*", ["torchvision:swin_t", "torchvision:swin_s", "torchvision:swin_b"]),
    ],
)
def test_a_pattern_lists_names(embedkd: Command, pattern: str, names: list[str]) -> None:
    code, out, _ = embedkd("students", pattern)

    assert code == 0
    assert out.split() == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("timm:resnet19",), "did you mean timm:resnet18"),
        (("timm:nothing_of_this_kind*",), "unknown student"),
        (("timm:test_vit", "--image-px", "40"), "expected patch_px to divide image_px = 40, got 16"),
        (("timm:test_resnet", "--patch-px", "4"), "timm:test_resnet has no patches"),
    ],
)
def test_what_cannot_be_shown_is_told(refused: Refused, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused("students", *arguments)


def test_a_student_of_timm_is_trained_evaluated_and_exported(embedkd: Command, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--student", "timm:test_vit", "--image-px", "32", "--mask-ratio", "0.25", "--epochs", "1", "--out", run)
    code, _, err = embedkd("train", "--targets", store, *options, "--set", "train.device=cpu")
    assert code == 0, err
    assert embedkd("evaluate", run)[0] == 0

    code, out, err = embedkd("export", run)

    assert code == 0, err
    assert f"{run}/export/model.safetensors: 1.2 MB" in out
    assert "latency on this CPU: " in out
    text = (run / "export" / "README.md").read_text()
    assert "efficientnet" in text
    assert "Apache" in text or "apache" in text
    assert "top1, test split of" in text
    assert str(tmp_path) not in text


def test_an_export_of_nothing_is_told(refused: Refused, tmp_path: Path) -> None:
    assert "expected a run folder with student.json" in refused("export", tmp_path)
