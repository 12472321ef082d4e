"""Two towers of transformers with one space for images and texts: CLIP and SigLIP."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import ModuleList

from embedkd.records import OutputSpec, TeacherSpec
from embedkd.teachers.base import Backbone
from embedkd.teachers.known.hf import MODELS
from embedkd.teachers.processor import ProcessorTransform, check_side, load_preprocess
from embedkd.teachers.runner import TorchTeacher, choose_device, choose_precision
from embedkd.teachers.transformers_folder import describe_architecture, provenance, quiet, weight_files
from embedkd.teachers.transformers_model import bare_class, draw_model, load_model
from embedkd.teachers.transformers_text import (
    TOKENIZER_FILES,
    CaptionTokens,
    MissingTokenizer,
    describe_tokenizer,
    has_tokenizer,
    load_tokenizer,
)
from embedkd.teachers.transformers_tower import Tower, find_blocks, special_tokens, split_parts
from embedkd.teachers.weights import weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from embedkd.teachers.base import LoadOptions, ResolvedName

Tokenizer = CaptionTokens | MissingTokenizer
PAIRS = ("clip", "siglip")


def load_pair(folder: Path, config: "PreTrainedConfig", name: "ResolvedName", options: "LoadOptions") -> TorchTeacher:
    """Load both towers from a folder.

    Raises:
        TeacherError: The folder is incomplete or unsafe, or its weights do not fit its config.
    """
    place = choose_device(options.device)
    transform, preprocess = load_preprocess(folder)
    settings: Any = config
    check_side(preprocess, settings.vision_config.image_size, f"'{folder}'")
    model: Any = _build_model(folder, config, name, options)
    pair = Pair(model.to(place), settings)
    length = settings.text_config.max_position_embeddings
    # Without a vocabulary there are no captions: what is published of a model by name has none.
    text = load_tokenizer(folder, length) if has_tokenizer(folder) else None
    spec = TeacherSpec(
        name=name.name,
        model=describe_architecture(type(pair.model).__name__, config),
        weights_sha256=weights_sha256(pair.model.state_dict()),
        outputs=pair.outputs(text=text is not None),
        preprocess=preprocess,
        normalised=False,
        precision=choose_precision(options.precision, place),
        logit_scale=float(pair.model.logit_scale.exp()),
        logit_bias=float(pair.model.logit_bias) if hasattr(pair.model, "logit_bias") else None,
        layers=len(pair.tower.blocks),
        tokenizer=describe_tokenizer(folder, length) if text else None,
        **provenance(name, options, folder, MODELS.get(name.model)),
    )
    return TorchTeacher(
        spec,
        transform,
        pair.tower.forward,
        place,
        tokenize=text,
        text_forward=pair.text_forward(text) if text else None,
        backbone=pair.backbone(transform, folder),
    )


@dataclass(frozen=True)
class Pair:
    """CLIP or SigLIP, taken apart.

    Attributes:
        model: The library's model of both towers.
        config: Its config.
    """

    model: Any
    config: Any

    @property
    def tower(self) -> Tower:
        """The image tower; CLIP normalises its class token alone and projects it, SigLIP does neither."""
        vision, part = self.model.vision_model, self.config.vision_config
        clip = hasattr(self.model, "visual_projection")
        return Tower(
            encoder=vision,
            blocks=find_blocks(vision, part),
            special=special_tokens(part),
            norm=vision.post_layernorm if clip else None,
            projection=self.model.visual_projection if clip else None,
        )

    def outputs(self, *, text: bool) -> tuple[OutputSpec, ...]:
        """What there is to be had, with or without a tokenizer."""
        width = self.config.vision_config.hidden_size
        joint = self.config.projection_dim if self.tower.projection else width
        own = ("cls", "patch_mean") if self.tower.special else ("patch_mean",)
        common = ("image", "text") if text else ("image",)
        return (*(OutputSpec(name, joint) for name in common), *(OutputSpec(name, width) for name in own))

    def text_forward(self, text: Tokenizer) -> Callable[[Tensor], Tensor]:
        """From tokens [N, T] to the output ``text``, [N, D], masked where the tokenizer says so.

        CLIP's text tower is causal and reads the end of the text: padding behind it changes nothing.
        """
        causal = self.tower.projection is not None

        def forward(tokens: Tensor) -> Tensor:
            mask = None if causal else text.mask(tokens)
            pooled: Tensor = self.model.text_model(input_ids=tokens, attention_mask=mask).pooler_output
            rows: Tensor = self.model.text_projection(pooled) if causal else pooled
            return rows

        return forward

    def backbone(self, transform: ProcessorTransform, origin: Path) -> Backbone:
        """The image tower with its projection; saving writes both towers and the tokenizer's files."""
        tower = self.tower
        parts = {"vision_model": tower.encoder}
        if tower.projection is not None:
            parts["visual_projection"] = tower.projection
        module = nn.ModuleDict(parts)

        def features(pixels: Tensor) -> Tensor:
            pooled: Tensor = tower.encoder(pixel_values=pixels).pooler_output
            projected: Tensor = pooled if tower.projection is None else tower.projection(pooled)
            return projected

        def save(folder: Path) -> None:
            with quiet():
                self.model.save_pretrained(folder)
                transform.processor.save_pretrained(folder)
            for file in TOKENIZER_FILES:
                if (origin / file).is_file():
                    shutil.copyfile(origin / file, folder / file)

        assert isinstance(tower.blocks, ModuleList)
        return Backbone(module, features, "image", split_parts(module, tower.blocks), save)


def _build_model(
    folder: Path, config: "PreTrainedConfig", name: "ResolvedName", options: "LoadOptions"
) -> "PreTrainedModel":
    kind = bare_class(config)
    assert kind is not None  # the library has both kinds of pairs
    if options.random_seed is not None:
        return draw_model(folder, config, kind, options.random_seed)
    return load_model(folder, config, kind, weight_files(name, folder))[0]
