from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from embedkd.teachers.transformers_text import CaptionTokens, MissingTokenizer
from tests.teachers.saved_transformers import clip_tokenizer, gemma_tokenizer

CAPTIONS = ["a cat", "", "a very long caption that is cut somewhere", "x"]


def ending(tokenizer: Any) -> Any:
    """The tokenizer, with the end of a text appended to it."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("padding", ["<pad>", "<eos>"])
@pytest.mark.parametrize("ends", [False, True])
def test_the_mask_is_the_librarys(side: str, padding: str, *, ends: bool) -> None:
    tokenizer = ending(gemma_tokenizer(masks=True)) if ends else gemma_tokenizer(masks=True)
    tokenizer.padding_side, tokenizer.pad_token = side, padding
    expected = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    captions = CaptionTokens(tokenizer, 12)
    tokens = captions(CAPTIONS)
    assert torch.equal(tokens, expected["input_ids"])
    mask = captions.mask(tokens)
    assert mask is not None
    assert torch.equal(mask, expected["attention_mask"])
    assert 0 < mask.sum() < mask.numel()


def test_a_tokenizer_without_masks_gives_none() -> None:
    captions = CaptionTokens(gemma_tokenizer(masks=False), 12)
    assert captions.mask(captions(CAPTIONS)) is None
    assert MissingTokenizer("").mask(captions(CAPTIONS)) is None


def test_clips_mask_ends_behind_the_end_of_the_text() -> None:
    tokenizer = clip_tokenizer()
    expected = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    captions = CaptionTokens(tokenizer, 12)
    mask = captions.mask(captions(CAPTIONS))
    assert mask is not None
    assert torch.equal(mask, expected["attention_mask"])
