"""The ``hf:`` family: CLIP, SigLIP (1 and 2, of fixed resolution) and other vision towers of transformers.

For models of images and texts, ``image`` and ``text`` are what get_image_features and get_text_features pool, before
they are normalised. CLIP's ``cls`` is the class token after post_layernorm, before visual_projection (its
pooler_output); transformers applies that norm to the class token alone, and ``patch_mean`` applies it to the patch
tokens before it averages them. SigLIP has no class token; its ``patch_mean`` follows its own post_layernorm.

Other towers say what their library's forward pass gives: ``pooled`` is pooler_output, ``cls`` is there where the
library's own code puts a class token first, ``logits`` where the checkpoint is a trained classifier.
"""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import ModuleList
from transformers import AutoModel, AutoModelForImageClassification, CLIPVisionModelWithProjection, PreTrainedModel

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec, TeacherSpec
from embedkd.teachers.base import Backbone
from embedkd.teachers.classifier import with_classifier
from embedkd.teachers.known.hf import PUBLISHED
from embedkd.teachers.processor import ProcessorTransform, load_preprocess
from embedkd.teachers.runner import TorchTeacher, choose_device, choose_precision
from embedkd.teachers.transformers_folder import (
    describe_architecture,
    may_run_code,
    open_folder,
    provenance,
    quiet,
    read_architecture,
    read_config,
    weight_files,
)
from embedkd.teachers.transformers_model import (
    ModelClass,
    bare_class,
    classifier_class,
    draw_model,
    encoder_of,
    load_model,
)
from embedkd.teachers.transformers_pair import PAIRS, load_pair
from embedkd.teachers.transformers_published import CONFIG_FILE
from embedkd.teachers.transformers_tower import Tower, count_layers, find_blocks, special_tokens, split_parts
from embedkd.teachers.weights import weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from embedkd.teachers.base import LoadOptions, ResolvedName

_NAFLEX = ("siglip2", "siglip2_vision_model")


def load(name: "ResolvedName", options: "LoadOptions") -> TorchTeacher:
    """Load a model from its folder, or from the hub where the name has none.

    Raises:
        TeacherError: The hub cannot be reached, the folder is incomplete or unsafe, the weights do not fit its config,
            the model is no encoder of images of one size, or the device is not there.
    """
    choose_device(options.device)
    with open_folder(name, options, PUBLISHED) as folder:
        trusted = may_run_code(folder, name, options)
        config = read_config(folder, trusted=trusted)
        if config.model_type in _NAFLEX:
            raise TeacherError(
                f"'{folder}' is a SigLIP 2 for images of any shape (NaFlex), which have no pixels of one size\n"
                "take one of fixed resolution, google/siglip2-base-patch16-224 for instance"
            )
        if config.model_type in PAIRS and classifier_class(config, read_architecture(folder)) is None:
            teacher = load_pair(folder, config, name, options)
        else:
            teacher = _load_tower(folder, config, name, options, trusted=trusted)
        return teacher if options.random_seed is not None else with_classifier(teacher, folder)


def _load_tower(
    folder: Path, config: "PreTrainedConfig", name: "ResolvedName", options: "LoadOptions", *, trusted: bool
) -> TorchTeacher:
    place = choose_device(options.device)
    transform, preprocess = load_preprocess(folder, trusted=trusted)
    kind = _choose_class(folder, config, trusted=trusted)
    if options.random_seed is None:
        model, has_head = load_model(folder, config, kind, weight_files(name, folder))
    else:
        model, has_head = draw_model(folder, config, kind, options.random_seed), True
    tower = _build_tower(model, has_head=has_head)
    whole: nn.Module = model if has_head else tower.encoder
    spec = TeacherSpec(
        name=name.name,
        model=_describe(folder, whole, config, trusted=trusted),
        weights_sha256=weights_sha256(whole.state_dict()),
        outputs=_outputs_of(tower, transform, folder, getattr(config, "num_labels", 0)),
        preprocess=preprocess,
        normalised=False,
        precision=choose_precision(options.precision, place),
        layers=count_layers(tower, config),
        **provenance(name, options, folder, None),
    )
    nn.Module.to(model, place)
    # Saving would leave the code behind that a model of its own code needs.
    backbone = None if trusted else _backbone_of(tower, model, transform, spec)
    return TorchTeacher(spec, transform, tower.forward, place, backbone=backbone)


def _choose_class(folder: Path, config: "PreTrainedConfig", *, trusted: bool) -> ModelClass:
    architecture = read_architecture(folder)
    if trusted:
        auto: Any = AutoModelForImageClassification if architecture.endswith("ForImageClassification") else AutoModel
        with quiet(), torch.device("meta"):
            return type(auto.from_config(config, trust_remote_code=True))
    if config.model_type == "clip_vision_model" and architecture == CLIPVisionModelWithProjection.__name__:
        return CLIPVisionModelWithProjection
    kind = classifier_class(config, architecture) or bare_class(config)
    if kind is None:
        raise TeacherError(f"'{folder}/{CONFIG_FILE}': transformers has no model for '{config.model_type}' alone")
    return kind


def _build_tower(model: PreTrainedModel, *, has_head: bool) -> Tower:
    encoder: Any = encoder_of(model)
    projection = getattr(model, "visual_projection", None) if has_head else None
    return Tower(
        encoder=encoder,
        blocks=find_blocks(encoder, encoder.config),
        special=special_tokens(encoder.config),
        norm=encoder.post_layernorm if encoder.config.model_type == "clip_vision_model" else None,
        classifier=model if has_head and model is not encoder and projection is None else None,
        projection=projection,
    )


def _outputs_of(tower: Tower, transform: ProcessorTransform, folder: Path, labels: int) -> tuple[OutputSpec, ...]:
    """What the forward pass gives for one image; a pooler that only picks the class token says nothing new."""
    encoded = _try_twice(tower, transform, folder)
    tokens, pooled = getattr(encoded, "last_hidden_state", None), getattr(encoded, "pooler_output", None)
    found: dict[str, int] = {}
    if tower.projection is not None:
        found["image"] = len(tower.row("image", encoded)[0])
    if tower.special is not None and isinstance(tokens, Tensor) and tokens.ndim == 3:
        found |= {"cls": tokens.shape[-1]} if tower.special else {}
        found["patch_mean"] = tokens.shape[-1]
    if isinstance(pooled, Tensor) and not ("cls" in found and torch.equal(tower.row("cls", encoded), pooled)):
        found["pooled"] = pooled.flatten(1).shape[1]
    if tower.classifier is not None:
        found["logits"] = labels
    if not found:
        raise TeacherError(f"'{folder}': {type(tower.encoder).__name__} gives nothing pooled for an image")
    order = ("image", "cls", "pooled", "logits", "patch_mean")
    return tuple(OutputSpec(name, found[name]) for name in order if name in found)


def _try_twice(tower: Tower, transform: ProcessorTransform, folder: Path) -> Any:
    """What the encoder gives for one image, and whether it is the same each time."""
    pixels = transform(Image.effect_mandelbrot((64, 64), (-2.0, -1.5, 1.0, 1.5), 40).convert("RGB"))[None]
    try:
        # Not in inference mode: BEiT keeps what it computes here, and training could not use it.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            first, second = tower.encoder(pixel_values=pixels), tower.encoder(pixel_values=pixels)
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        raise TeacherError(
            f"'{folder}': {type(tower.encoder).__name__} takes no images of this size alone: "
            f"{' '.join(str(error).split())[:200]}\nhf: reads CLIP, SigLIP, and encoders of images alone"
        ) from error
    if not torch.equal(first[0], second[0]):
        raise TeacherError(f"'{folder}': {type(tower.encoder).__name__} draws at random; it is no teacher")
    return first


def _describe(folder: Path, model: nn.Module, config: "PreTrainedConfig", *, trusted: bool) -> str:
    if not trusted:
        return describe_architecture(type(model).__name__, config)
    digest = sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
    return f"{type(model).__name__} of its own code, config sha256 {digest}"


def _backbone_of(
    tower: Tower, model: PreTrainedModel, transform: ProcessorTransform, spec: TeacherSpec
) -> Backbone | None:
    """The encoder, with its projection where it has one; None where the order of its layers is not known."""
    output = next((name for name in ("image", "pooled", "cls") if spec.output(name)), None)
    if output is None or not isinstance(tower.blocks, ModuleList):
        return None
    module: Any = tower.encoder if tower.projection is None else model

    def features(pixels: Tensor) -> Tensor:
        return tower.row(output, tower.encoder(pixel_values=pixels))

    def save(folder: Path) -> None:
        with quiet():
            module.save_pretrained(folder)
            transform.processor.save_pretrained(folder)

    return Backbone(module, features, output, split_parts(module, tower.blocks), save)
