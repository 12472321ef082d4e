"""L_clip of CLIP-Teacher-KD: the student's embedding of each sample against the teacher's of all samples of the batch.

Legend: B samples, D width.
"""

from typing import TYPE_CHECKING

import torch

from embedkd.losses._checks import Reduction, check_temperature, check_tensors
from embedkd.losses._rows import cosines, reduce_rows, softmax_costs

if TYPE_CHECKING:
    from torch import Tensor


def sample_contrastive(
    student_BD: "Tensor",
    target_BD: "Tensor",
    labels_B: "Tensor | None" = None,
    *,
    temperature: float = 0.1,
    mask_same_class: bool = True,
    reduction: Reduction = "mean",
) -> "Tensor":
    """Cross-entropy over the cosines of each sample with all targets of the batch; its own target is the right one.

    Perfect match, each sample along its own target, targets at right angles: log(1 + (B - 1) exp(-1 / temperature)).
    Chance, a sample at one angle to all targets: log B. Where pairs are masked, B counts the candidates that a sample
    keeps. A batch of one sample has no choice: 0, without gradient.

    >>> import torch
    >>> targets = torch.eye(64)
    >>> sample_contrastive(targets, targets)
    tensor(0.0029)
    >>> sample_contrastive(torch.ones(64, 64), targets)
    tensor(4.1589)

    Args:
        student_BD: The student's embeddings.
        target_BD: The teacher's of the same samples, projected to the student's width where widths differ. Samples that
            only fill up a batch must be taken out before: they would be candidates.
        labels_B: int64; with them, other samples of a sample's own class are no candidates (false negatives). Negative
            labels are unknown and mask nothing.
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
    check_tensors("sample_contrastive", target_BD=target_BD, student_BD=student_BD, labels_B=labels_B)
    check_temperature("sample_contrastive", temperature)
    logits_BB = cosines(student_BD, target_BD) / temperature
    if labels_B is not None and mask_same_class:
        logits_BB = logits_BB.masked_fill(_same_class(labels_B), -torch.inf)
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return reduce_rows("sample_contrastive", softmax_costs("sample_contrastive", logits_BB, own_B), reduction)


def _same_class(labels_B: "Tensor") -> "Tensor":
    """Pairs [B, B] of two different samples of one known class."""
    same_BB = (labels_B[:, None] == labels_B) & (labels_B >= 0)
    return same_BB.fill_diagonal_(False)
