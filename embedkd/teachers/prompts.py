"""Prompt templates for class names: tables by name, or a text file with one template a line. Torch-free to import.

A template holds ``{}`` once, where the class name goes.
"""

from collections.abc import Callable
from pathlib import Path

from embedkd.errors import ConfigError, UnknownNameError

# What a store's class set can hold.
_MOST_PROMPTS = 1_024
_LONGEST_PROMPT = 4_096
_LARGEST_FILE_BYTES = 1 << 22


def _clip() -> tuple[str, ...]:
    """The 80 templates that OpenAI's CLIP was measured with on ImageNet, as open_clip has them."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES  # imports torch

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def _simple() -> tuple[str, ...]:
    return ("a photo of a {}.",)


TEMPLATES: dict[str, Callable[[], tuple[str, ...]]] = {"clip": _clip, "simple": _simple}


def read_prompts(name_or_file: str) -> tuple[str, ...]:
    """The templates of a table, or of a file.

    >>> read_prompts("simple")
    ('a photo of a {}.',)

    Args:
        name_or_file: "clip", "simple", or the path of a UTF-8 text file; its empty lines are passed over.

    Raises:
        UnknownNameError: There is no such table and no such file.
        ConfigError: The file cannot be read, holds no template or too many, or a line is none.
    """
    if name_or_file in TEMPLATES:
        return TEMPLATES[name_or_file]()
    file = Path(name_or_file).expanduser()
    if not file.is_file():
        raise UnknownNameError("prompts (and no file of that name)", name_or_file, TEMPLATES)
    if file.stat().st_size > _LARGEST_FILE_BYTES:
        raise ConfigError(f"'{file}' has more than {_LARGEST_FILE_BYTES} bytes; expected one template a line")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read prompts '{file}': {error}; expected UTF-8, one template a line") from error
    prompts = {number: line.strip() for number, line in enumerate(lines, start=1) if line.strip()}
    for number, prompt in prompts.items():
        if prompt.count("{}") != 1 or len(prompt) > _LONGEST_PROMPT or "\0" in prompt:
            raise ConfigError(f"'{file}' line {number}: expected a template with one {{}}, got {prompt[:80]!r}")
    if not 1 <= len(prompts) <= _MOST_PROMPTS:
        raise ConfigError(f"'{file}' holds {len(prompts)} templates, expected 1 to {_MOST_PROMPTS}")
    return tuple(prompts.values())


def fill_prompt(prompt: str, class_name: str) -> str:
    """A template about one class; underscores and hyphens of its name are read as spaces.

    >>> fill_prompt("a photo of a {}.", "sea_lion")
    'a photo of a sea lion.'
    """
    return prompt.replace("{}", " ".join(class_name.replace("_", " ").replace("-", " ").split()))
