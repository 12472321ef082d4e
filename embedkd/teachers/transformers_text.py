"""Captions to tokens by a checkpoint's own tokenizer, padded to the one length that its text tower was trained with."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoTokenizer

from embedkd.errors import TeacherError
from embedkd.teachers.folders import read_json
from embedkd.teachers.transformers_folder import quiet

# Any of these holds a vocabulary; the others say how it is used.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
TOKENIZER_FILES = (
    *_VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class CaptionTokens:
    """A tokenizer as a function of captions; pickles without the model.

    Attributes:
        tokenizer: As AutoTokenizer gives it.
        length: Tokens of every caption, cut or padded.
    """

    tokenizer: Any
    length: int

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """To int64 [N, T], by the tokenizer's own call."""
        if not captions:
            return torch.empty(0, self.length, dtype=torch.int64)
        found = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        tokens: Tensor = found["input_ids"]
        return tokens

    def mask(self, tokens: Tensor) -> Tensor | None:
        """The attention mask that comes with these tokens [N, T]: 1 on a caption, 0 on its padding.

        None where the tokenizer gives its model none, as SigLIP's own does. Where a text ends in the very token that
        pads it, the one next to the text is its end.
        """
        if "attention_mask" not in self.tokenizer.model_input_names:
            return None
        padding: Tensor = tokens == self.tokenizer.pad_token_id
        if self.tokenizer("a caption")["input_ids"][-1] == self.tokenizer.pad_token_id:
            left = self.tokenizer.padding_side == "left"
            count = padding.flip(1).cumsum(1).flip(1) if left else padding.cumsum(1)
            padding &= count > 1
        return (~padding).long()


@dataclass(frozen=True)
class MissingTokenizer:
    """Stands for a tokenizer that a missing package keeps from loading: images are embedded all the same.

    Attributes:
        problem: Why it cannot be loaded, and what to install.
    """

    problem: str

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Say why there are no tokens.

        Raises:
            TeacherError: Always.
        """
        raise TeacherError(self.problem)

    def mask(self, tokens: Tensor) -> Tensor | None:
        """None: tokens from elsewhere are taken as they are."""


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a vocabulary."""
    return any((folder / file).is_file() for file in _VOCABULARIES)


def load_tokenizer(folder: Path, length: int) -> CaptionTokens | MissingTokenizer:
    """A folder's own tokenizer.

    Args:
        folder: As transformers saves it.
        length: Tokens of every caption.

    Raises:
        TeacherError: The tokenizer's files are damaged.
    """
    from_pretrained = cast("Callable[..., Any]", AutoTokenizer.from_pretrained)
    try:
        with quiet():
            tokens = CaptionTokens(from_pretrained(folder, local_files_only=True, trust_remote_code=False), length)
            tokens(["a caption"])
    except ImportError:
        return MissingTokenizer(
            f"the tokenizer of '{folder}' needs a package that is not here\n"
            "captions cannot be read without it: pip install sentencepiece protobuf"
        )
    except Exception as error:  # The tokenizers library raises bare exceptions for damaged files.
        problem = " ".join(str(error).split())
        raise TeacherError(
            f"cannot load the tokenizer of '{folder}': {problem[:200]}; copy the model's whole folder"
        ) from error
    return tokens


def describe_tokenizer(folder: Path, length: int) -> str:
    """Kind, length, and one digest over the names and bytes of the tokenizer's files."""
    digest = hashlib.sha256()
    for file in sorted(TOKENIZER_FILES):
        if (folder / file).is_file():
            data = (folder / file).read_bytes()
            digest.update(f"{file} {len(data)} ".encode() + data)
    config = folder / "tokenizer_config.json"
    kind = read_json(config).get("tokenizer_class") if config.is_file() else None
    return f"transformers {kind or 'tokenizer'}, {length} tokens, sha256 {digest.hexdigest()}"
