"""L_clip of CLIP-Embed-KD: the student's embedding against one row of the teacher's for each class.

Legend: B samples, C classes, D width.
"""

from typing import TYPE_CHECKING

from embedkd.errors import LossError
from embedkd.losses._checks import Reduction, check_positive, check_tensors
from embedkd.losses._rows import cosines, reduce_rows, softmax_costs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_NAMED = 5  # classes that a message names before it only counts


def class_contrastive(
    student_BD: "Tensor",
    classes_CD: "Tensor",
    labels_B: "Tensor",
    *,
    temperature: float = 0.1,
    reduction: Reduction = "mean",
) -> "Tensor":
    """Cross-entropy over the cosines of each sample with all classes, divided by a temperature.

    Perfect match, each sample along the row of its class and rows at right angles:
    log(1 + (C - 1) exp(-1 / temperature)). Chance, a sample at one angle to all rows: log C.

    >>> import torch
    >>> means = torch.eye(100)
    >>> class_contrastive(means, means, torch.arange(100))
    tensor(0.0045)
    >>> class_contrastive(torch.ones(1, 100), means, torch.tensor([0]))
    tensor(4.6052)

    Args:
        student_BD: The student's embeddings.
        classes_CD: One row a class: the mean of the teacher's embeddings, or its embedding of a text; projected to the
            student's width where widths differ.
        labels_B: int64, from 0 to C - 1.
        temperature: Divides the cosines. The published code has none (that is 1): a perfect match then still costs 3.6
            for 100 classes.
        reduction: Over samples; "none" gives [B].

    Returns:
        float32, or float64 where an input is.

    Raises:
        LossError: A shape, a dtype, a label or the temperature does not fit.

    Source:
        Nair 2024, "CLIP-Embed-KD: Computationally Efficient Knowledge Distillation Using Embeddings as Teachers".
    """
    check_tensors("class_contrastive", classes_CD=classes_CD, student_BD=student_BD, labels_B=labels_B)
    check_positive("class_contrastive", "temperature", temperature, "0.1")
    logits_BC = cosines(student_BD, classes_CD) / temperature
    return reduce_rows("class_contrastive", softmax_costs("class_contrastive", logits_BC, labels_B), reduction)


def require_class_means(class_means_CD: "Tensor", names: "Sequence[str] | None" = None) -> None:
    """Refuse means that a class is missing from, once and before training.

    Args:
        class_means_CD: As the store gives them: NaN for a class that no sample was averaged for.
        names: Of the classes, for the message.

    Raises:
        LossError: A class has no mean.
    """
    check_tensors("class_contrastive", class_means_CD=class_means_CD)
    missing = (~class_means_CD.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if missing:
        shown = [names[at] if names is not None else str(at) for at in missing[:_NAMED]]
        rest = ", ..." if len(missing) > _NAMED else ""
        raise LossError(
            f"losses.class_contrastive: expected a mean for each of {len(class_means_CD)} classes, got none for "
            f"{len(missing)} ({', '.join(shown)}{rest}); add training samples of them or leave the loss out"
        )
