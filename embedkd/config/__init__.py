"""What a run is: frozen dataclasses with every default, read from TOML and from ``--set section.key=value``.

Only stages and the command line know this package; parts take plain arguments. Names of teachers, students and losses
are looked up where their tables are, so here they are text.
"""

from embedkd.config.augmentation import AUGMENTATIONS, AugmentConfig
from embedkd.config.loading import load_config
from embedkd.config.recipes import DEFAULT_RECIPE, RECIPES, Recipe
from embedkd.config.sections import (
    AverageConfig,
    Config,
    DataConfig,
    DemoConfig,
    DemoRun,
    PrecomputeConfig,
)
from embedkd.config.training import OptimiserConfig, StudentConfig, TrainConfig
from embedkd.config.tuning import FinetuneConfig, HeadConfig

__all__ = [
    "AUGMENTATIONS",
    "DEFAULT_RECIPE",
    "RECIPES",
    "AugmentConfig",
    "AverageConfig",
    "Config",
    "DataConfig",
    "DemoConfig",
    "DemoRun",
    "FinetuneConfig",
    "HeadConfig",
    "OptimiserConfig",
    "PrecomputeConfig",
    "Recipe",
    "StudentConfig",
    "TrainConfig",
    "load_config",
]
