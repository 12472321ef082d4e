import pytest

from embedkd.errors import ConfigError, UnknownNameError
from embedkd.losses import LOSSES
from embedkd.training.terms import Comparison, build_terms, check_batch_size, comparison_options


def test_options_of_the_loss_and_of_whoever_feeds_it_are_told_apart() -> None:
    given = {"temperature": 0.2, "mask_same_class": False, "output": "cls", "centre": True, "tap": "cls@-2"}
    (term,) = build_terms({"sample_contrastive": 2, "mse": 0}, {"sample_contrastive": given})
    assert (term.name, term.weight) == ("sample_contrastive", 2.0)
    assert term.options == {"temperature": 0.2, "mask_same_class": False}
    assert term.compares == Comparison(output="cls", centre=True, tap="cls@-2")


def test_what_can_be_said_of_each_kind_of_loss() -> None:
    said = {name: set(comparison_options(entry)) for name, entry in LOSSES.items()}
    assert said["cross_entropy"] == set()
    assert said["kl"] == {"output", "ensemble", "fitted"}
    assert said["class_contrastive"] == {"output", "class_set", "centre", "tap"}
    assert said["mse"] == {"output", "centre", "standardise", "tap"}
    assert said["gradient"] == {"output", "classes", "class_set", "centre", "standardise", "tap"}


def test_names_and_options_are_looked_up() -> None:
    with pytest.raises(UnknownNameError, match="unknown loss 'cross_entropi'; did you mean cross_entropy"):
        build_terms({"cross_entropi": 1.0}, {})
    with pytest.raises(UnknownNameError, match="did you mean temperature"):
        build_terms({"class_contrastive": 1.0}, {"class_contrastive": {"temprature": 1.0}})
    with pytest.raises(UnknownNameError, match="did you mean output"):
        build_terms({"class_contrastive": 1.0}, {"class_contrastive": {"ouptut": "cls"}})


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("class_contrastive", "temperature", "hot", "expected a value such as 0.1, got 'hot'"),
        ("cross_entropy", "output", "pooled", "expected none, cross_entropy has no teacher"),
        ("kl", "centre", True, "expected none, kl reads target_logits"),
        ("mse", "class_set", "n9", "expected none, mse reads rows"),
        ("mse", "output", 3, "expected a name, got 3"),
        ("mse", "centre", 1, "expected true or false, got 1"),
    ],
)
def test_an_option_must_be_of_its_type_and_of_use(name: str, option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.{option}: {message}"):
        build_terms({name: 1.0}, {name: {option: value}})


def test_a_temperature_is_given_or_fitted() -> None:
    with pytest.raises(ConfigError, match=r"loss_options.kl: expected a temperature or fitted = true, got both"):
        build_terms({"kl": 1.0}, {"kl": {"temperature": 2.0, "fitted": True}})


def test_batches_that_teach_nothing_are_refused() -> None:
    terms = build_terms({"cross_entropy": 1.0, "sample_contrastive": 1.0}, {})
    check_batch_size(terms, 2)
    with pytest.raises(
        ConfigError, match=r"train.global_batch_size: expected at least 2 for sample_contrastive, got 1"
    ):
        check_batch_size(terms, 1)
