"""Small models of open_clip's real classes with random weights, saved as open_clip saves them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from embedkd.teachers.openclip_model import ClipSource, _creator

_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_VISION = {"layers": 3, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
_WORDS = ["<pad>", "</s>", "<unk>", *["a", "photo", "of", "the", "cat", "dog", "tree", "house", "small", "red", "blue"]]
_SIGLIP_TEXT = {
    **_TEXT,
    "vocab_size": len(_WORDS),
    "hf_tokenizer_name": "nobody/siglip-tokenizer",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "own": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": _VISION, "text_cfg": _TEXT},
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
        "text_cfg": _TEXT,
    },
    "custom": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {**_VISION, "final_ln_after_pool": True, "no_ln_pre": True, "ls_init_value": 0.5},
        "text_cfg": {**_TEXT, "no_causal_mask": True},
    },
    "averaging": {"embed_dim": 24, "vision_cfg": {**_VISION, "pool_type": "avg"}, "text_cfg": _TEXT},
    "siglip": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": _SIGLIP_TEXT,
    },
    "mobile": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"image_size": 96, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"},
        "text_cfg": _TEXT,
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {**_VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
}
PIXELS = {"mean": [0.2, 0.4, 0.6], "std": [0.3, 0.2, 0.1], "interpolation": "bicubic", "resize_mode": "shortest"}


def tokenizer() -> Any:
    """A word tokenizer that ends a caption as SigLIP's does."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(_WORDS)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    wrapped: Any = PreTrainedTokenizerFast  # transformers leaves it untyped
    return wrapped(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def draw(architecture: str, seed: int = 0) -> Any:
    """A model with random weights, its batch statistics drawn too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = _creator(ClipSource(architecture, ARCHITECTURES[architecture], {}))()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        torch.nn.init.constant_(model.logit_scale, 3.0 + seed)
    return model.eval()


def save_clip(folder: Path, name: str, seed: int = 0, **pixels: Any) -> Path:
    """Save a small model as ``open_clip.push_to_hf_hub`` does, with its tokenizer where it has one of its own."""
    model = draw(name, seed)
    open_clip.model.set_model_preprocess_cfg(model, PIXELS | pixels)
    own = "hf_tokenizer_name" in ARCHITECTURES[name]["text_cfg"]
    words = tokenizer() if own else SimpleNamespace(save_pretrained=lambda _folder: None)
    save: Any = save_for_hf
    save(model, words, ARCHITECTURES[name], str(folder), safe_serialization=True)
    return folder


def edit_config(folder: Path, part: str, **changes: Any) -> None:
    """Change keys of one part of a folder's open_clip_config.json ("model_cfg.vision_cfg"); None removes one."""
    file = folder / "open_clip_config.json"
    document = json.loads(file.read_text())
    place = document
    for key in part.split("."):
        place = place[key]
    place.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del place[key]
    file.write_text(json.dumps(document))
