"""Every metric by name: what it is called, and in which unit people read it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from embedkd.evaluation.estimate import Estimate

Unit = Literal["share", "nats", "number"]


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        title: For people.
        unit: A share is shown in percent.
    """

    title: str
    unit: Unit = "share"


METRICS: Final[dict[str, Metric]] = {
    "top1": Metric("top-1"),
    "top5": Metric("top-5"),
    "knn": Metric("k-NN"),
    "linear": Metric("linear probe"),
    "zero_shot": Metric("zero-shot"),
    "zero_shot_top5": Metric("zero-shot top-5"),
    "balanced": Metric("balanced accuracy"),
    "macro_f1": Metric("macro F1"),
    "nll": Metric("NLL", "nats"),
    "brier": Metric("Brier score", "number"),
    "ece": Metric("ECE"),
    "ece_floor": Metric("ECE if calibrated"),
    "ece_mass": Metric("ECE, equal mass"),
    "overconfidence": Metric("overconfidence"),
    "auroc": Metric("AUROC of confidence", "number"),
    "temperature": Metric("temperature", "number"),
    "nll_scaled": Metric("NLL, scaled", "nats"),
    "brier_scaled": Metric("Brier score, scaled", "number"),
    "ece_scaled": Metric("ECE, scaled"),
    "agreement": Metric("top-1 agreement"),
    "teacher_top1": Metric("top-1 of the teacher"),
    "cosine": Metric("cosine to the teacher", "number"),
    "cosine_others": Metric("cosine to others", "number"),
    "neighbours": Metric("common neighbours"),
    "cka": Metric("CKA", "number"),
}


def title_of(name: str) -> str:
    """What a metric is called; behind ``@`` a name may say of which teacher.

    >>> title_of("ece"), title_of("cka@vit-l-32"), title_of("new_one")
    ('ECE', 'CKA (vit-l-32)', 'new_one')
    """
    base, _, teacher = name.partition("@")
    title = METRICS[base].title if base in METRICS else base
    return f"{title} ({teacher})" if teacher else title


def shown(name: str, estimate: "Estimate") -> tuple[str, str]:
    """A metric's value and its interval, in its unit; "-" without an interval.

    >>> from embedkd.evaluation.estimate import Estimate
    >>> shown("top1", Estimate(0.451, 0.4, 0.5)), shown("temperature", Estimate(1.25))
    (('45.1%', '40.0% to 50.0%'), ('1.250', '-'))
    """
    metric = METRICS.get(name.partition("@")[0], Metric(name, "number"))
    low, high = estimate.low, estimate.high
    value = _in_unit(estimate.value, metric.unit)
    return (
        value,
        "-" if low is None or high is None else f"{_in_unit(low, metric.unit)} to {_in_unit(high, metric.unit)}",
    )


def _in_unit(value: float, unit: Unit) -> str:
    return f"{value:.1%}" if unit == "share" else f"{value:.3f}"
