"""Small models with random weights, as transformers saves them, each with its image processor and tokenizer."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as library
from safetensors.torch import load_file, save_file

PX = 32
LABELS = 5
_NUMBERS: dict[str, Any] = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
_SQUARE: dict[str, Any] = {"size": {"height": PX, "width": PX}} | _NUMBERS
_SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_TOWER: dict[str, Any] = _SHAPE | {"intermediate_size": 64}
_VISION: dict[str, Any] = _TOWER | {"image_size": PX, "patch_size": 8}
_DINOV2: dict[str, Any] = _SHAPE | {"image_size": 40, "patch_size": 8, "mlp_ratio": 2}
_STAGES: dict[str, Any] = {"depths": [1, 1], "hidden_sizes": [16, 32]}
# Kind -> model class, config class, what its config says, processor class, what that says.
Recipe = tuple[str, str, dict[str, Any], str, dict[str, Any]]

RECIPES: dict[str, Recipe] = {
    "vit": ("ViTModel", "ViTConfig", _VISION, "ViTImageProcessor", _SQUARE | {"resample": 3}),
    "vit-classifier": ("ViTForImageClassification", "ViTConfig", _VISION, "ViTImageProcessor", _SQUARE),
    "deit-classifier": (
        "DeiTForImageClassification",
        "DeiTConfig",
        _VISION,
        "DeiTImageProcessor",
        _NUMBERS | {"size": {"height": 40, "width": 40}, "crop_size": {"height": PX, "width": PX}},
    ),
    "deit-distilled": (
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        _VISION,
        "DeiTImageProcessor",
        _NUMBERS | {"size": {"height": 40, "width": 40}, "crop_size": {"height": PX, "width": PX}},
    ),
    "dinov2": (
        "Dinov2Model",
        "Dinov2Config",
        _DINOV2,
        "BitImageProcessor",
        _NUMBERS | {"size": {"shortest_edge": 36}, "crop_size": {"height": PX, "width": PX}},
    ),
    "dinov2-classifier": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        _DINOV2 | {"use_swiglu_ffn": True},
        "BitImageProcessor",
        _NUMBERS | {"size": {"shortest_edge": 36}, "crop_size": {"height": PX, "width": PX}},
    ),
    "dinov2-registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        _DINOV2 | {"num_register_tokens": 3},
        "BitImageProcessor",
        _NUMBERS | {"size": {"shortest_edge": 36}, "crop_size": {"height": PX, "width": PX}},
    ),
    "clip-vision": ("CLIPVisionModel", "CLIPVisionConfig", _VISION, "CLIPImageProcessor", {}),
    "clip-projection": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        _VISION | {"projection_dim": 12},
        "CLIPImageProcessor",
        {},
    ),
    "siglip-vision": ("SiglipVisionModel", "SiglipVisionConfig", _VISION, "SiglipImageProcessor", _SQUARE),
    "beit": (
        "BeitForImageClassification",
        "BeitConfig",
        _VISION | {"use_mean_pooling": True, "use_relative_position_bias": True},
        "BeitImageProcessor",
        _SQUARE | {"do_center_crop": False},
    ),
    "dinov3": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        _VISION | {"num_register_tokens": 2},
        "DINOv3ViTImageProcessor",
        _SQUARE,
    ),
    "swin": (
        "SwinModel",
        "SwinConfig",
        {"image_size": PX, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        "ViTImageProcessor",
        _SQUARE,
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        _STAGES | {"embedding_size": 16, "layer_type": "basic"},
        "ConvNextImageProcessor",
        _NUMBERS | {"size": {"shortest_edge": PX}, "crop_pct": 0.875},
    ),
    "convnext": (
        "ConvNextModel",
        "ConvNextConfig",
        {"num_stages": 2, "depths": [1, 1], "hidden_sizes": [16, 32]},
        "ConvNextImageProcessor",
        _NUMBERS | {"size": {"shortest_edge": 384}},
    ),
}


def save_kind(kind: str, folder: Path, **architecture: Any) -> Path:
    """Save one of `RECIPES`, ``dino`` (a ViT without pooler), or a pair: ``clip``, ``siglip``, ``siglip2``."""
    if kind in {"clip", "siglip", "siglip2"}:
        return save_pair(kind, folder)
    name, config_name, facts, processor_name, processing = RECIPES["vit" if kind == "dino" else kind]
    labels = {"num_labels": LABELS} if "Classification" in name else {}
    config = getattr(library, config_name)(**(facts | labels | architecture))
    more = {"add_pooling_layer": False} if kind == "dino" else {}
    drawn(lambda: getattr(library, name)(config, **more)).save_pretrained(folder)
    if processor_name == "CLIPImageProcessor":
        clip_processor().save_pretrained(folder)
    else:
        getattr(library, processor_name)(**processing).save_pretrained(folder)
    return folder


def save_pair(kind: str, folder: Path) -> Path:
    """CLIP, or SigLIP with the tokenizer of its second version (the first one's needs sentencepiece)."""
    text = _TOWER | {"max_position_embeddings": 16, "vocab_size": 80}
    config: Any
    if kind == "clip":
        tokens = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
        vision = _VISION | {"projection_dim": 12}
        config = library.CLIPConfig(text_config=text | tokens, vision_config=vision, projection_dim=12)
        processor: Any = pair_of("CLIPProcessor", clip_processor(), clip_tokenizer())
    else:
        tokens = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
        config = library.SiglipConfig(text_config=text | tokens, vision_config=_VISION)
        tokenizer = gemma_tokenizer(masks=kind == "siglip2")
        processor = pair_of("SiglipProcessor", library.SiglipImageProcessor(**_SQUARE), tokenizer)
    from_config: Any = library.AutoModel.from_config
    drawn(lambda: from_config(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pair_of(kind: str, images: Any, tokenizer: Any) -> Any:
    """A processor of images and captions."""
    return getattr(library, kind)(images, tokenizer)


def clip_processor() -> Any:
    return library.CLIPImageProcessor(size={"shortest_edge": PX}, crop_size={"height": PX, "width": PX})


def clip_tokenizer() -> Any:
    """CLIP's byte pairs, with letters for a vocabulary and one merge."""
    letters = string.ascii_lowercase
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>", "at</w>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges: Any = [("a", "t</w>")]
    return library.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)


def gemma_tokenizer(*, masks: bool) -> Any:
    """SigLIP 2's, which lowers letters; SigLIP's models are trained without the mask that others get."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase]
    names = ["input_ids", "attention_mask"] if masks else ["input_ids"]
    return library.Siglip2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        model_max_length=16,
        padding_side="right",
        model_input_names=names,
    )


def drawn(make: Callable[[], Any], seed: int = 0) -> Any:
    """A model with weights far from the library's start, where class tokens and many others are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().eval()
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, float("norm" in name and name.endswith("weight")), std=0.2)
    return model


def from_pretrained(auto: str, folder: Path, **arguments: Any) -> Any:
    """What the library itself makes of a folder; untyped there."""
    return getattr(library, auto).from_pretrained(folder, **arguments)


def edit_json(file: Path, **changes: object) -> None:
    """Set keys of a JSON file; None removes one."""
    document = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a folder in place."""
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
