"""Which parameters learn, and how fast: the higher a part lies in the network, the faster.

Layer-wise decay as in ULMFiT (Howard and Ruder, 2018, arXiv:1801.06146) and BEiT (Bao et al., 2022, arXiv:2106.08254).
"""

from typing import TYPE_CHECKING

from torch import nn

from embedkd.errors import ConfigError, TeacherError
from embedkd.training.optim import build_optimiser

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from embedkd.teachers import Backbone

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)  # the only base that all of them share
_BETAS = (0.9, 0.999)


def check_parts(backbone: "Backbone") -> None:
    """Refuse a backbone whose parts name a parameter twice, or one that its module does not have.

    What is in no part is never trained: it is behind the features, such as an old classifier.

    Raises:
        TeacherError: They do.
    """
    named = [id(parameter) for part in backbone.parts for parameter in part]
    if len(named) != len(set(named)) or not set(named) <= {id(p) for p in backbone.module.parameters()}:
        raise TeacherError(
            f"expected each parameter in at most one of the {len(backbone.parts)} parts of a backbone, got "
            f"{len(named)} entries for {len(set(named))} parameters, or some of another module"
        )


def depths(backbone: "Backbone", last_blocks: int | None) -> dict[int, int]:
    """How far below the classifier each learning parameter lies, by the parameter's id.

    The classifier has the depth 0, what follows the blocks 1, the last block 2, and so on down to the stem.

    Args:
        backbone: Its parts are the stem, the blocks, and what follows them.
        last_blocks: Blocks that learn, with what follows them; None for everything.

    Raises:
        ConfigError: There are not so many blocks.
    """
    blocks = len(backbone.parts) - 2
    if last_blocks is not None and last_blocks > blocks:
        raise ConfigError(
            f"finetune.last_blocks: expected up to {blocks}, the blocks of this teacher, got {last_blocks}; "
            "leave it out to tune everything"
        )
    learning = backbone.parts if last_blocks is None else backbone.parts[-(last_blocks + 1) :]
    return {id(p): depth for depth, part in enumerate(reversed(learning), start=1) for p in part}


def layered_optimiser(
    backbone: "Backbone",
    classifier: nn.Module,
    by_depth: dict[int, int],
    *,
    lr: float,
    decay: float,
    weight_decay: float,
) -> "Optimizer":
    """AdamW over the classifier and the learning parameters; sets ``requires_grad`` of all.

    Every group has the rate ``lr`` times its ``lr_scale``, ``decay ** depth``, at any step of a timm schedule. The
    first group is the classifier's.

    Args:
        backbone: Trained where `by_depth` says so.
        classifier: Always trained.
        by_depth: See `depths`; empty leaves the backbone alone.
        lr: Rate of the classifier.
        decay: Factor on the rate from one depth to the next.
        weight_decay: Decoupled decay of matrices.
    """
    for parameter in backbone.module.parameters():
        parameter.requires_grad_(id(parameter) in by_depth)
    modules = (classifier, backbone.module) if by_depth else (classifier,)
    optimiser = build_optimiser(modules, lr=lr, weight_decay=weight_decay, betas=_BETAS)
    groups = []
    for group in optimiser.param_groups:
        for depth in sorted({by_depth.get(id(p), 0) for p in group["params"]}):
            members = [p for p in group["params"] if by_depth.get(id(p), 0) == depth]
            groups.append({**group, "params": members, "lr_scale": decay**depth})
    optimiser.param_groups[:] = groups
    return optimiser


def set_modes(backbone: "Backbone", *, statistics: bool) -> None:
    """Training mode where everything learns, evaluation mode elsewhere: what is frozen drops nothing out.

    A module without parameters (dropout, drop path) goes along with the one that it lies in.

    Args:
        backbone: Its parameters' ``requires_grad`` says what learns.
        statistics: Whether batch norms use and collect those of the batch. Of a few tuned blocks they stay those that
            the frozen blocks below were trained with.
    """
    _set_modes(backbone.module, {id(p) for part in backbone.parts for p in part}, statistics=statistics, around=True)


def _set_modes(module: nn.Module, counted: set[int], *, statistics: bool, around: bool) -> None:
    own = [parameter.requires_grad for parameter in module.parameters() if id(parameter) in counted]
    learns = all(own) if own else around
    module.training = learns and (statistics or not isinstance(module, _BATCH_NORMS))
    for child in module.children():
        _set_modes(child, counted, statistics=statistics, around=learns)
