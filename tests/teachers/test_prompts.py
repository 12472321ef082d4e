from pathlib import Path

import open_clip
import pytest

from embedkd.errors import ConfigError, UnknownNameError
from embedkd.teachers.prompts import TEMPLATES, fill_prompt, read_prompts


def test_the_clip_templates_are_open_clips_80() -> None:
    prompts = read_prompts("clip")
    assert len(prompts) == 80
    said = [template("dog") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [fill_prompt(prompt, "dog") for prompt in prompts] == said


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_table_has_templates_with_one_place(name: str) -> None:
    prompts = read_prompts(name)
    assert len(set(prompts)) == len(prompts) > 0
    assert all(prompt.count("{}") == 1 for prompt in prompts)


def test_a_file_has_a_template_a_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(b"\xef\xbb\xbfa {} on {{ice}}\r\n\n  clip art: {}\n")
    assert read_prompts(str(file)) == ("a {} on {{ice}}", "clip art: {}")


@pytest.mark.parametrize(
    ("name", "filled"),
    [("sea_lion", "a sea lion."), ("Zoë-cat", "a Zoë cat."), ("{}", "a {}."), (" two__words ", "a two words.")],
)
def test_class_names_are_read_as_words(name: str, filled: str) -> None:
    assert fill_prompt("a {}.", name) == filled


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a {}\nno place\n", r"line 2: expected a template with one \{\}, got 'no place'"),
        (b"{} and {}", "line 1: expected a template with one"),
        (b"a {}" + b"x" * 5_000, "line 1: expected"),
        (b"a \0 {}", "line 1: expected"),
        (b"\n \n", "holds 0 templates, expected 1 to 1024"),
        (b"a {}\n" * 1_025, "holds 1025 templates"),
        (b"\xff {}", "expected UTF-8"),
        (b"x" * ((1 << 22) + 1), "more than 4194304 bytes"),
    ],
)
def test_a_file_that_holds_no_templates(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_prompts(str(file))
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_name_lists_the_tables() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown prompts .* 'clips'; did you mean clip"):
        read_prompts("clips")
