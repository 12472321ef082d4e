"""The ``vit:`` family: vision transformers of transformers (ViT, DINO, DeiT, DINOv2), from the hub or a local folder.

The output ``cls`` is the class token after the last layer norm, before any pooler or head (Dosovitskiy et al., 2021,
arXiv:2010.11929); ``patch_mean`` is the mean over patch tokens after the same norm, without class, distillation and
register tokens. ``pooled`` and ``logits`` are there where the checkpoint holds a trained pooler or classifier.
Preprocessing is the model's own image processor, called as transformers calls it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import ModuleList

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec, TeacherSpec
from embedkd.teachers.base import Backbone
from embedkd.teachers.classifier import with_classifier
from embedkd.teachers.known.vit import MODELS, PUBLISHED
from embedkd.teachers.processor import ProcessorTransform, check_side, load_preprocess
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
    bare_class,
    classifier_class,
    draw_model,
    encoder_of,
    load_model,
)
from embedkd.teachers.transformers_tower import Tower, find_blocks, special_tokens, split_parts
from embedkd.teachers.weights import weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from embedkd.teachers.base import LoadOptions, ResolvedName

# These interpolate their positions to any image, as their library calls them.
_ANY_SIZE = ("dinov2", "dinov2_with_registers")


def load(name: "ResolvedName", options: "LoadOptions") -> TorchTeacher:
    """Load a vision transformer from its folder, or from the hub where the name has none.

    Raises:
        TeacherError: The hub cannot be reached, the folder is incomplete or unsafe, the weights do not fit its config,
            or the device is not there.
    """
    choose_device(options.device)
    with open_folder(name, options, PUBLISHED) as folder:
        if may_run_code(folder, name, options):
            raise TeacherError(f"vit: runs no code of a folder; say hf:{name.weights or name.source}")
        teacher = _load_folder(folder, name, options)
        return teacher if options.random_seed is not None else with_classifier(teacher, folder)


def _load_folder(folder: Path, name: "ResolvedName", options: "LoadOptions") -> TorchTeacher:
    place = choose_device(options.device)
    config: Any = read_config(folder, trusted=False)
    transform, preprocess = load_preprocess(folder)
    if config.model_type not in _ANY_SIZE:
        check_side(preprocess, config.image_size, f"'{folder}'")
    model, has_head = _build_model(folder, config, name, options)
    encoder: Any = encoder_of(model)
    # Moved before anything refers to its parameters.
    nn.Module.to(model, place)
    tower = Tower(
        encoder=encoder,
        blocks=find_blocks(encoder, config),
        special=special_tokens(config),
        classifier=model if has_head and model is not encoder else None,
    )
    known = MODELS.get(name.model)
    spec = TeacherSpec(
        name=name.name,
        model=describe_architecture(type(model if tower.classifier else encoder).__name__, config),
        weights_sha256=weights_sha256((model if tower.classifier else encoder).state_dict()),
        outputs=_outputs_of(tower, config),
        preprocess=preprocess,
        normalised=False,
        precision=choose_precision(options.precision, place),
        layers=len(tower.blocks),
        **provenance(name, options, folder, known),
    )
    return TorchTeacher(spec, transform, tower.forward, place, backbone=_backbone_of(tower, transform))


def _build_model(
    folder: Path, config: "PreTrainedConfig", name: "ResolvedName", options: "LoadOptions"
) -> "tuple[PreTrainedModel, bool]":
    """The model and whether its classifier counts; random weights come with the pooler that the model is known for."""
    kind = classifier_class(config, read_architecture(folder)) or bare_class(config)
    if kind is None:
        raise TeacherError(f"'{folder}/config.json' describes no vision transformer, but a '{config.model_type}'")
    if options.random_seed is None:
        return load_model(folder, config, kind, weight_files(name, folder))
    model = draw_model(folder, config, kind, options.random_seed)
    known = None if name.weights else MODELS.get(name.model)
    encoder: Any = encoder_of(model)
    if known is None or "pooled" not in {output.name for output in known.outputs}:
        encoder.pooler = None
    return model, True


def _outputs_of(tower: Tower, config: Any) -> tuple[OutputSpec, ...]:
    outputs = [OutputSpec("cls", config.hidden_size)]
    # DINOv2 calls its class token pooled; only a pooler of weights says something new.
    if getattr(tower.encoder, "pooler", None) is not None:
        outputs.append(OutputSpec("pooled", config.pooler_output_size))
    if tower.classifier is not None:
        outputs.append(OutputSpec("logits", config.num_labels))
    return (*outputs, OutputSpec("patch_mean", config.hidden_size))


def _backbone_of(tower: Tower, transform: ProcessorTransform) -> Backbone:
    """The bare encoder; a classifier around it stays behind, since training makes another one."""
    encoder: Any = tower.encoder

    def features(pixels: Tensor) -> Tensor:
        tokens: Tensor = encoder(pixel_values=pixels).last_hidden_state
        return tokens[:, 0]

    def save(folder: Path) -> None:
        with quiet():
            encoder.save_pretrained(folder)
            transform.processor.save_pretrained(folder)

    assert isinstance(tower.blocks, ModuleList)
    return Backbone(encoder, features, "cls", split_parts(encoder, tower.blocks), save)
