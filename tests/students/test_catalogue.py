import subprocess
import sys
from typing import Any

import pytest
import torch

import embedkd.students
from embedkd.errors import ConfigError, UnknownNameError
from embedkd.students import (
    STUDENTS,
    Projection,
    StudentOptions,
    VitSpec,
    build_student,
    parameter_count,
)


def test_names_go_from_small_to_large() -> None:
    assert tuple(STUDENTS) == ("vit-tiny", "vit-base", "vit-large")
    counts = [STUDENTS[name].parameter_count(num_classes=100, image_px=32) for name in STUDENTS]
    assert counts == sorted(counts)


def test_the_paper_s_students() -> None:
    base, large = STUDENTS["vit-base"], STUDENTS["vit-large"]

    assert (base.layers, base.width, base.heads, base.mlp_width, base.patch_px) == (6, 256, 8, 1024, 4)
    assert (large.layers, large.width, large.heads, large.mlp_width, large.patch_px) == (10, 512, 8, 2048, 4)


def test_the_base_student_and_its_projection_have_the_published_size() -> None:
    # 5.06M is the published student beside ViT-L/32; it has the projection from 1024 of the teacher to 256.
    base = build_student("vit-base", num_classes=100, image_px=32)

    assert parameter_count(base) == 4_794_468
    assert parameter_count(base) + parameter_count(Projection(1024, 256, seed=0)) == 5_056_868


@pytest.mark.parametrize(("image_px", "patch_px", "num_classes"), [(32, None, 10), (64, 16, 1), (96, 8, 33)])
def test_parameters_are_counted_without_building(image_px: int, patch_px: int | None, num_classes: int) -> None:
    student = build_student(
        "vit-tiny", num_classes=num_classes, image_px=image_px, options=StudentOptions(patch_px=patch_px)
    )

    expected = STUDENTS["vit-tiny"].parameter_count(num_classes=num_classes, image_px=image_px, patch_px=patch_px)

    assert parameter_count(student) == expected


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_has_the_sizes_that_the_table_promises(name: str) -> None:
    student = build_student(name, num_classes=7, image_px=32)

    embedding, logits, _ = student(torch.zeros(2, 3, 32, 32))

    assert embedding.shape == (2, student.embedding_dim) == (2, STUDENTS[name].width)
    assert logits.shape == (2, student.num_classes) == (2, 7)
    assert parameter_count(student) == STUDENTS[name].parameter_count(num_classes=7, image_px=32)
    assert student.image_px == 32
    assert student.training


def test_an_unknown_student_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown student 'vit-bse'; did you mean vit-base"):
        build_student("vit-bse", num_classes=2, image_px=32)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({"num_classes": 0}, {}, "student: expected at least 1 class, got 0"),
        ({}, {"patch_px": 5}, "expected patch_px to divide image_px = 32, got 5"),
        ({}, {"patch_px": 64}, "expected patch_px to divide image_px = 32, got 64"),
        ({"image_px": 36}, {}, "expected patch_px to divide image_px = 36, got 8"),
        ({"image_px": 0}, {}, "student: expected image_px of at least 1, got 0"),
        ({}, {"drop_path": 1.0}, "student: expected drop_path of at least 0 and below 1, got 1.0"),
        ({}, {"dropout": -0.1}, "student: expected dropout of at least 0 and below 1, got -0.1"),
        ({}, {"mask_ratio": 1.0}, "student: expected mask_ratio of at least 0 and below 1, got 1.0"),
        ({}, {"extra": {"drop_rate": 1 << 40}}, "student: expected options.drop_rate of at most 65536"),
    ],
)
def test_numbers_out_of_range_are_told(sizes: dict[str, int], options: dict[str, Any], message: str) -> None:
    arguments = {"num_classes": 2, "image_px": 32, **sizes}

    with pytest.raises(ConfigError, match=message):
        build_student("vit-tiny", **arguments, options=StudentOptions(**options))


def test_names_and_sizes_are_known_without_torch_and_timm() -> None:
    script = (
        "import sys\n"
        "from embedkd.students import STUDENTS\n"
        "assert STUDENTS['vit-tiny'].parameter_count(num_classes=2, image_px=32)\n"
        "sys.exit(bool({'torch', 'timm'} & sys.modules.keys()))\n"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    for name in embedkd.students.__all__:
        assert getattr(embedkd.students, name) is not None


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match=r"module 'embedkd.students' has no attribute 'Teacher'"):
        _ = embedkd.students.Teacher


def test_a_spec_is_plain_numbers() -> None:
    spec = VitSpec(layers=1, width=4, heads=1, mlp_width=8, patch_px=2, source="by hand")

    # 48 of patches, 4 + 20 of tokens, 8 before the blocks, 8 + 80 + 8 + 76 in the block, 8 after it, 10 of the head.
    assert spec.parameter_count(num_classes=2, image_px=4) == 270
