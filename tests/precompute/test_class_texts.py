from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from embedkd.errors import StoreError, TeacherError
from embedkd.precompute.class_texts import add_class_texts
from embedkd.progress import Silent
from embedkd.records import DecodePolicy, OutputSpec, Shard
from embedkd.storage import LocalStorage
from embedkd.store import Pass, PassWriter, TeacherView, create_store, set_names
from embedkd.store.classes import prompts_digest, read_class_set
from embedkd.teachers import Teacher, load_teacher
from embedkd.teachers.prompts import read_prompts
from tests.teachers.clips import save_clip
from tests.tiny import SPEC, TinyTeacher

CLASSES = ("sea_lion", "tree", "Zoë")
TEXT = OutputSpec("text", 4)


class Reader(TinyTeacher):
    """Says how often four letters come in a text; counts what it is asked."""

    spec = replace(SPEC, outputs=(*SPEC.outputs, TEXT), tokenizer="letters")

    def __init__(self, letters: str = "ate ") -> None:
        super().__init__()
        self.texts: list[str] = []
        self.letters = letters
        self.tokenize = self.read

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        self.texts += texts
        return torch.tensor([[text.count(letter) for letter in self.letters] for text in texts])

    def embed_text(self, tokens: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(tokens))
        return tokens.float()


class Counter(Silent):
    """Counts what is reported."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, count: int, note: str = "") -> None:
        self.done += count


def view_of(folder: Path, teacher: Teacher, classes: tuple[str, ...] | None = CLASSES) -> TeacherView:
    shards = (Shard("train-0.tar", "train", 9_216, 11, "a" * 64),)
    storage = LocalStorage(folder / "s.zarr")
    store = create_store(storage, shards, root="../data", classes=classes, policy=DecodePolicy())
    PassWriter(store, teacher.spec, Pass((teacher.spec.outputs[0].name,), 8, 1, "cpu"))
    return store.teacher()


def test_the_means_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    teacher, watch = Reader(), Counter()
    view = view_of(tmp_path, teacher)
    made = add_class_texts(view, teacher, "clip", watch)
    prompts = read_prompts("clip")
    for number, name in enumerate(("sea lion", "tree", "Zoë")):
        rows = []
        for prompt in prompts:
            text = prompt.replace("{}", name)
            row = np.array([text.count(letter) for letter in "ate "], dtype=np.float64)
            rows.append(row / np.linalg.norm(row))
        mean = np.mean(rows, axis=0)
        spread = np.sqrt(np.mean([np.sum((row - mean) ** 2) for row in rows]))
        np.testing.assert_allclose(made.mean[number], mean, rtol=1e-6)
        np.testing.assert_allclose(made.spread[number], spread, rtol=1e-6)
        assert np.linalg.norm(made.mean[number]) < 1
    assert made.count.tolist() == [80, 80, 80]
    assert watch.done == 3
    assert max(teacher.batches) <= 256
    assert len(teacher.texts) == 240


def test_the_stored_set_reads_back_with_its_templates(tmp_path: Path) -> None:
    teacher = Reader()
    view = view_of(tmp_path, teacher)
    made = add_class_texts(view, teacher, "simple", Silent())
    assert made.name == "prompts-simple"
    assert set_names(view, "text") == ["prompts-simple"]
    again = read_class_set(view, None, TEXT)
    assert again.prompts == ("a photo of a {}.",)
    assert (again.samples_per_class, again.seed) == (1, 0)
    assert again.commits == prompts_digest(again.prompts, CLASSES)
    assert np.array_equal(again.mean, made.mean)
    assert again.spread.tolist() == [0, 0, 0]


def test_a_finished_set_is_not_computed_again(tmp_path: Path) -> None:
    teacher = Reader()
    view = view_of(tmp_path, teacher)
    first = add_class_texts(view, teacher, "simple", Silent())
    asked = len(teacher.texts)
    second = add_class_texts(view, teacher, "simple", Silent())
    assert len(teacher.texts) == asked > 0
    assert np.array_equal(first.mean, second.mean)


def test_another_sets_name_is_not_taken(tmp_path: Path) -> None:
    teacher = Reader()
    view = view_of(tmp_path, teacher)
    add_class_texts(view, teacher, "simple", Silent(), name="mine")
    with pytest.raises(StoreError, match="class set 'mine' is there with other prompts"):
        add_class_texts(view, teacher, "clip", Silent(), name="mine")


@pytest.mark.parametrize(("stem", "name"), [("art", "prompts-art"), ("Art ü", "prompts-")])
def test_a_file_names_its_set(tmp_path: Path, stem: str, name: str) -> None:
    teacher = Reader()
    (tmp_path / f"{stem}.txt").write_text("clip art: a {}\n")
    made = add_class_texts(view_of(tmp_path, teacher), teacher, str(tmp_path / f"{stem}.txt"), Silent())
    assert made.name.startswith(name)
    assert made.prompts == ("clip art: a {}",)


def test_what_has_no_text_no_names_or_is_another_teacher_is_refused(tmp_path: Path) -> None:
    teacher = Reader()
    with pytest.raises(StoreError, match="no class names to put into prompts"):
        add_class_texts(view_of(tmp_path / "nameless", teacher, None), teacher, "simple", Silent())
    view = view_of(tmp_path / "store", teacher)
    with pytest.raises(TeacherError, match="is not the teacher of"):
        add_class_texts(view, TinyTeacherWithText(), "simple", Silent())
    silent = TinyTeacher()
    with pytest.raises(TeacherError, match=r"has no output 'text' for prompts; it has: cls, pooled"):
        add_class_texts(view_of(tmp_path / "silent", silent), silent, "simple", Silent())


class TinyTeacherWithText(Reader):
    spec = replace(Reader.spec, weights_sha256="1" * 64)


def test_an_embedding_without_length_names_its_class(tmp_path: Path) -> None:
    teacher = Reader(letters="zzzz")
    with pytest.raises(TeacherError, match="no finite embedding for the class 'sea_lion'"):
        add_class_texts(view_of(tmp_path, teacher), teacher, "simple", Silent())


def test_with_open_clip_it_is_its_zero_shot_classifier(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = save_clip(tmp_path / "clip", "own")
    teacher = load_teacher(f"openclip:{folder}")
    made = add_class_texts(view_of(tmp_path, teacher), teacher, "clip", Silent())
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    weights = open_clip.build_zero_shot_classifier(
        model.eval(),
        open_clip.get_tokenizer(f"local-dir:{folder}"),
        ("sea lion", "tree", "Zoë"),
        open_clip.OPENAI_IMAGENET_TEMPLATES,
    )
    torch.set_num_threads(threads)
    units = torch.nn.functional.normalize(torch.from_numpy(made.mean), dim=1)
    torch.testing.assert_close(units, weights.T, atol=1e-5, rtol=0)
