"""AFD of CLIP-KD for a student without a text tower: student and teacher say together which class a sample is of.

Legend: B samples, C classes, D width, E = 2 D.
"""

from typing import TYPE_CHECKING

import torch

from embedkd.errors import LossError
from embedkd.losses._checks import Reduction, check_tensors
from embedkd.losses._rows import bounded_scale, cosines, products, reduce_rows, softmax_costs, unit_rows, widen

if TYPE_CHECKING:
    from torch import Tensor


def fusion_contrastive(
    student_BD: "Tensor",
    target_BD: "Tensor",
    classes_CD: "Tensor",
    labels_B: "Tensor",
    log_scale: "Tensor",
    fusion_weight_DE: "Tensor",
    fusion_bias_D: "Tensor",
    *,
    reduction: Reduction = "mean",
) -> "Tensor":
    """Cross-entropy over the cosines of each fused sample with the teacher's classes, times a learned factor.

    A sample is fused by a learned layer from the directions of the student's and the teacher's embedding, side by side.
    As the teacher's half alone can find the class, the student may learn little from it.
    Perfect match, each fused sample along the row of its class, rows at right angles and a factor s:
    log(1 + (C - 1) exp(-s)). Chance, a fused sample at one angle to all rows: log C.

    >>> import torch
    >>> classes, both = torch.eye(100), torch.cat([torch.eye(100), torch.eye(100)], dim=1)
    >>> log_scale, bias = torch.tensor(10.0).log(), torch.zeros(100)
    >>> fusion_contrastive(classes, classes, classes, torch.arange(100), log_scale, both, bias)
    tensor(0.0045)

    Args:
        student_BD: The student's embeddings, projected to the width of the target where widths differ.
        target_BD: The teacher's of the same samples.
        classes_CD: One row a class, in the space of the target: its text, or the mean of its samples.
        labels_B: int64, from 0 to C - 1.
        log_scale: Logarithm of the factor, which is at most 100.
        fusion_weight_DE: Of the layer; the student's half comes first.
        fusion_bias_D: Of the layer.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype or a label does not fit.

    Source:
        Yang et al. 2024, "CLIP-KD: An Empirical Study of CLIP Model Distillation", its image direction with classes in
        place of captions; with the exponential of the learned number, which the published code leaves out.
    """
    name = "fusion_contrastive"
    check_tensors(
        name,
        target_BD=target_BD,
        student_BD=student_BD,
        classes_CD=classes_CD,
        labels_B=labels_B,
        log_scale=log_scale,
        fusion_weight_DE=fusion_weight_DE,
        fusion_bias_D=fusion_bias_D,
    )
    both_BE = torch.cat([unit_rows(student_BD), unit_rows(target_BD)], dim=1)
    _check_fusion(name, both_BE, fusion_weight_DE)
    fused_BD = products(both_BE, widen(fusion_weight_DE)) + widen(fusion_bias_D)
    logits_BC = bounded_scale(log_scale) * cosines(fused_BD, classes_CD)
    return reduce_rows(name, softmax_costs(name, logits_BC, labels_B), reduction)


def _check_fusion(loss: str, both_BE: "Tensor", fusion_weight_DE: "Tensor") -> None:
    if fusion_weight_DE.shape[1] != both_BE.shape[1]:
        came = list(fusion_weight_DE.shape)
        raise LossError(f"losses.{loss}: expected fusion_weight_DE [D, E] with E = {both_BE.shape[1]}, got {came}")
