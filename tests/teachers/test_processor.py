import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as library
from PIL import Image

from embedkd.errors import TeacherError
from embedkd.records import Preprocess
from embedkd.teachers.processor import (
    ProcessorTransform,
    check_processor_file,
    check_transform,
    describe_processor,
    load_processor,
)
from tests.teachers.saved_transformers import clip_processor, clip_tokenizer, edit_json

IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def saved(processor: Any, folder: Path) -> Path:
    processor.save_pretrained(folder)
    return folder


def facts_of(folder: Path) -> Preprocess:
    transform = load_processor(folder)
    facts = describe_processor(transform.processor, "here")
    check_transform(transform, facts, "here")
    return facts


def test_a_crop_and_a_scale_of_its_own_are_described() -> None:
    sizes = {"height": None, "width": None, "longest_edge": None}
    processor = SimpleNamespace(
        size=SimpleNamespace(**(sizes | {"shortest_edge": 256})),
        crop_size=SimpleNamespace(height=224, width=200),
        do_resize=True,
        do_center_crop=True,
        do_pad=None,
        do_rescale=True,
        rescale_factor=1 / 127.5,
        do_normalize=True,
        image_mean=(1.0, 1.0, 1.0),
        image_std=(1.0, 1.0, 1.0),
        resample=2,
        backend="pil",
    )
    facts = describe_processor(processor, "here")
    assert (facts.resize_px, facts.crop_px, facts.interpolation) == (256, (224, 200), "bilinear")
    assert facts.mean == facts.std == (0.5, 0.5, 0.5)
    assert facts.backend == "pil"


@pytest.mark.parametrize(
    ("processor", "resize", "crop"),
    [
        (library.ViTImageProcessor(size={"height": 40, "width": 24}), (40, 24), (40, 24)),
        (library.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 24}), 40, (32, 24)),
        (library.ConvNextImageProcessor(size={"shortest_edge": 56}, crop_pct=0.875), 64, (56, 56)),
        (library.ConvNextImageProcessor(size={"shortest_edge": 384}), (384, 384), (384, 384)),
    ],
)
def test_the_sizes_of_the_librarys_processors(
    processor: Any, resize: object, crop: tuple[int, int], tmp_path: Path
) -> None:
    facts = facts_of(saved(processor, tmp_path))
    assert (facts.resize_px, facts.crop_px, facts.backend) == (resize, crop, "torchvision")


@pytest.mark.parametrize(("edge", "share"), [(56, 0.875), (96, 0.9)])
def test_what_convnext_resizes_to_is_what_the_record_says(edge: int, share: float, tmp_path: Path) -> None:
    """Its processor crops by a share of its own; the same pixels come from a plain one with the recorded sizes."""
    folder = saved(library.ConvNextImageProcessor(size={"shortest_edge": edge}, crop_pct=share, **IMAGENET), tmp_path)
    facts = facts_of(folder)
    edges: Any = {"shortest_edge": facts.resize_px}
    plain: Any = library.CLIPImageProcessor(
        size=edges,
        crop_size={"height": facts.crop_px[0], "width": facts.crop_px[1]},
        resample=3,
        **IMAGENET,
    )
    image = Image.effect_mandelbrot((150, 110), (-2.0, -1.5, 1.0, 1.5), 30).convert("RGB")
    assert torch.equal(load_processor(folder)(image), plain(image, return_tensors="pt")["pixel_values"][0])


def test_the_joint_file_of_a_processor_and_a_tokenizer(tmp_path: Path) -> None:
    alone, joint = clip_processor(), clip_processor()
    joint.image_mean = [0.1, 0.2, 0.3]
    combine: Any = library.CLIPProcessor
    processor = combine(joint, clip_tokenizer())
    processor.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*processor_config.json")] == ["processor_config.json"]
    assert check_processor_file(tmp_path).name == "processor_config.json"
    assert facts_of(tmp_path).mean == (0.1, 0.2, 0.3)
    # transformers takes the joint file where both are there, and so does the check before it.
    alone.save_pretrained(tmp_path)
    assert check_processor_file(tmp_path).name == "processor_config.json"
    assert facts_of(tmp_path).mean == (0.1, 0.2, 0.3)


def test_a_joint_file_that_leaves_out_the_mean(tmp_path: Path) -> None:
    document = {"processor_class": "CLIPProcessor", "image_processor": {"size": 32, "image_std": [1, 1, 1]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(document))
    with pytest.raises(TeacherError, match=r"processor_config.json' lacks image_mean; add what the model was trained"):
        load_processor(tmp_path)


def test_a_joint_file_without_images_is_none(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    with pytest.raises(TeacherError, match=r"has no preprocessor_config.json.*\ncopy it from the model's repository"):
        load_processor(tmp_path)


def test_a_processor_that_does_more_than_its_record_is_refused(tmp_path: Path) -> None:
    # EfficientNet's normalises twice with this setting.
    folder = saved(library.EfficientNetImageProcessor(size={"height": 32, "width": 32}, rescale_offset=True), tmp_path)
    with pytest.raises(TeacherError, match="does more than resize, crop and normalise"):
        facts_of(folder)


def test_a_processor_that_fails_is_named(tmp_path: Path) -> None:
    transform = load_processor(saved(library.ViTImageProcessor(size={"height": 32, "width": 32}), tmp_path))
    facts = describe_processor(transform.processor, "here")

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such image")

    with pytest.raises(TeacherError, match="here: its image processor fails: no such image"):
        check_transform(ProcessorTransform(fail), facts, "here")


def test_padding_and_longest_edges_depend_on_the_image(tmp_path: Path) -> None:
    documents: list[dict[str, Any]] = [{"do_pad": True}, {"size": {"shortest_edge": 32, "longest_edge": 64}}]
    for number, changes in enumerate(documents):
        folder = saved(library.ViTImageProcessor(size={"height": 32, "width": 32}), tmp_path / str(number))
        edit_json(folder / "preprocessor_config.json", **changes)
        with pytest.raises(TeacherError, match="must resize to one size"):
            facts_of(folder)
