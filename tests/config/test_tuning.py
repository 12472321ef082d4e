"""Ranges of the sections for adapting teachers."""

from typing import Any

import pytest

from embedkd.config.tuning import FinetuneConfig, HeadConfig
from embedkd.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("out", "."), ("out", "/"), ("out", "..")),
        *(("epochs", -1), ("warmup_epochs", -1), ("lr_warmup_epochs", -0.5), ("weight_decay", float("inf"))),
        *(("clip_grad_norm", -1.0), ("batch_size", 0), ("warmup_lr", 0.0), ("lr", 0.0), ("lr", float("nan"))),
        *(("layer_decay", 0.0), ("layer_decay", 1.1), ("min_crop_area", 0.0), ("final_lr_ratio", 1.1)),
        *(("flip", -0.1), ("label_smoothing", 1.0), ("held_out", 0.0), ("held_out", 1.0)),
        *(("last_blocks", -1), ("workers", -1)),
    ],
)
def test_a_value_outside_its_range_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^finetune\.{key}: expected"):
        FinetuneConfig(**{key: value})


def test_no_epoch_of_either_kind() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.epochs: expected at least 1 epoch"):
        FinetuneConfig(epochs=0, warmup_epochs=0)
    assert FinetuneConfig(epochs=0).warmup_epochs > 0
    assert FinetuneConfig(warmup_epochs=0).epochs > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("l2", 0.0), ("l2", float("inf")), ("folds", 1), ("folds", 65), ("max_rows", 1), ("iterations", 0)],
)
def test_a_value_of_a_head_outside_its_range_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^head\.{key}: expected"):
        HeadConfig(**{key: value})
