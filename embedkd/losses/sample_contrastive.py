"""L_clip of CLIP-Teacher-KD: the student's embedding of each sample against the teacher's of all samples of the batch.

Legend: B samples of this rank, N of all ranks (B in one process), D width.
"""

from typing import TYPE_CHECKING

import torch

from embedkd.errors import LossError
from embedkd.losses._checks import Reduction, check_positive, check_tensors
from embedkd.losses._rows import cosines, reduce_rows, softmax_costs

if TYPE_CHECKING:
    from torch import Tensor


def sample_contrastive(
    student_BD: "Tensor",
    target_ND: "Tensor",
    labels_N: "Tensor | None" = None,
    own_B: "Tensor | None" = None,
    *,
    temperature: float = 0.1,
    mask_same_class: bool = True,
    reduction: Reduction = "mean",
) -> "Tensor":
    """Cross-entropy over the cosines of each sample with all targets of the batch; its own target is the right one.

    Perfect match, each sample along its own target, targets at right angles: log(1 + (N - 1) exp(-1 / temperature)).
    Chance, a sample at one angle to all targets: log N. Where pairs are masked, N counts the candidates that a sample
    keeps. A batch of one sample has no choice: 0, without gradient.

    >>> import torch
    >>> targets = torch.eye(64)
    >>> sample_contrastive(targets, targets)
    tensor(0.0029)
    >>> sample_contrastive(torch.ones(64, 64), targets)
    tensor(4.1589)

    Args:
        student_BD: The student's embeddings.
        target_ND: The teacher's, projected to the student's width where widths differ: of the same samples, and behind
            or before them those of other ranks. Samples that only fill up a batch must be taken out before: they would
            be candidates.
        labels_N: int64, of the targets; with them, other samples of a sample's own class are no candidates (false
            negatives). Negative labels are unknown and mask nothing.
        own_B: int64, which target is each sample's own; None where all of them are, in their order.
        temperature: Divides the cosines.
        mask_same_class: False leaves them candidates, as in the paper.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype or the temperature does not fit.

    Source:
        Nair 2024, "CLIP-Embed-KD: Computationally Efficient Knowledge Distillation Using Embeddings as Teachers"; the
        form is InfoNCE, van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding".
    """
    name = "sample_contrastive"
    check_tensors(name, target_ND=target_ND, student_BD=student_BD, labels_N=labels_N, own_B=own_B)
    check_positive(name, "temperature", temperature, "0.1")
    if own_B is None:
        own_B = _all_in_order(student_BD, target_ND)
    logits_BN = cosines(student_BD, target_ND) / temperature
    if labels_N is not None and mask_same_class:
        logits_BN = logits_BN.masked_fill(_same_class(labels_N, own_B), -torch.inf)
    return reduce_rows(name, softmax_costs(name, logits_BN, own_B), reduction)


def _all_in_order(student_BD: "Tensor", target_ND: "Tensor") -> "Tensor":
    if len(student_BD) != len(target_ND):
        raise LossError(
            f"losses.sample_contrastive: expected student_BD [B, D] with B = {len(target_ND)} as target_ND, got "
            f"{list(student_BD.shape)}; pass one row for each sample, or own_B"
        )
    return torch.arange(len(student_BD), device=student_BD.device)


def _same_class(labels_N: "Tensor", own_B: "Tensor") -> "Tensor":
    """Pairs [B, N] of two different samples of one known class."""
    labels_B1 = labels_N[own_B][:, None]
    same_BN = (labels_B1 == labels_N) & (labels_B1 >= 0)
    return same_BN.scatter(1, own_B[:, None], value=False)
