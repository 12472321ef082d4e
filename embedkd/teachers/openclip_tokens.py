"""Tokenizers of open_clip: the one that its package carries, and those that a model brings along in its folder."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from embedkd.errors import TeacherError
from embedkd.records import canonical_json
from embedkd.teachers.hub import fetch_folder

_DEFAULT_LENGTH = 77
# A tokenizer of transformers has at least one of these.
_FILES = ("tokenizer.json", "tokenizer_config.json")
# Options that a config may set. Others choose at random what long captions lose, or name code and files.
_OPTIONS = {"clean": str, "strip_sep_token": bool, "language": str}


@dataclass(frozen=True)
class ClipTokenizer:
    """A tokenizer of open_clip, called as open_clip calls it; pickles without the model."""

    inner: Any
    length: int

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """From captions to int64 [N, T]."""
        if not texts:
            return torch.empty(0, self.length, dtype=torch.int64)
        tokens: Tensor = self.inner(list(texts), context_length=self.length)
        return tokens

    @property
    def description(self) -> str:
        """Kind, length, and digest of everything that decides the tokens."""
        kind = type(self.inner).__name__
        clean = getattr(self.inner.clean_fn, "__name__", "").removeprefix("_clean_")
        if isinstance(self.inner, SimpleTokenizer):
            facts: list[Any] = sorted(self.inner.encoder, key=self.inner.encoder.__getitem__)
        else:
            library = self.inner.tokenizer
            rules = library.backend_tokenizer.to_str() if library.is_fast else library.get_vocab()
            facts = [rules, self.inner.tokenizer_mode, self.inner.strip_sep_token, library.pad_token_id]
        return f"open_clip {kind}, {self.length} tokens, clean {clean}, sha256 {_sha256(facts)}"


def load_tokenizer(text_cfg: Mapping[str, Any], folder: Path | None, source: str, name: str) -> ClipTokenizer:
    """The tokenizer that a model's config asks for.

    Args:
        text_cfg: Of the model's config.
        folder: The model's folder, where it has one.
        source: For errors.
        name: The teacher's full name.

    Raises:
        TeacherError: A tokenizer of transformers is neither in the folder nor on a hub that answers, or an option is
            not one that gives every caption the same tokens each time.
    """
    options = _options(text_cfg, source)
    length = text_cfg.get("context_length", _DEFAULT_LENGTH)
    try:
        if not text_cfg.get("hf_tokenizer_name"):
            return ClipTokenizer(SimpleTokenizer(context_length=length, **options), length)
        place = _tokenizer_folder(str(text_cfg["hf_tokenizer_name"]), folder, source, name)
        mode = text_cfg.get("tokenizer_mode")
        inner = HFTokenizer(
            str(place),
            context_length=length,
            tokenizer_mode=mode,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
        return ClipTokenizer(inner, length)
    except (AssertionError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError) as error:
        raise TeacherError(f"{source} describes no tokenizer: {' '.join(str(error).split())}") from error


def _tokenizer_folder(wanted: str, folder: Path | None, source: str, name: str) -> Path:
    if folder is not None and any((folder / file).is_file() for file in _FILES):
        return folder
    try:
        return fetch_folder(wanted, name, weights=())
    except TeacherError as error:
        reason, advice = str(error).splitlines()
        raise TeacherError(f"{source} has no tokenizer ({' or '.join(_FILES)}), and {reason}\n{advice}") from error


def _options(text_cfg: Mapping[str, Any], source: str) -> dict[str, Any]:
    options = text_cfg.get("tokenizer_kwargs") or {}
    for key, value in options.items():
        if not isinstance(value, _OPTIONS.get(key, ())):
            raise TeacherError(
                f"{source} sets the tokenizer's option {key} to {value!r}; only {', '.join(_OPTIONS)} can be had"
            )
    return dict(options)


def _sha256(facts: object) -> str:
    return hashlib.sha256(canonical_json(facts)).hexdigest()
