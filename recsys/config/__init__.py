"""The typed, frozen configuration of an experiment; unknown keys and wrong types are refused by name."""

from recsys.config.base import Config
from recsys.config.data import (
    CleanConfig,
    Columns,
    DataConfig,
    GlobalTime,
    ItemColumns,
    LeaveOneOut,
    SplitConfig,
    UserHoldout,
)
from recsys.config.experiment import (
    ExperimentConfig,
    IndexConfig,
    TrackingConfig,
    build_config,
    default_tracking_uri,
    load_config,
    sections_of,
    setting_differences,
    shown_uri,
)
from recsys.config.models import (
    BERT4RecConfig,
    EncoderConfig,
    ItemKNNConfig,
    MarkovConfig,
    ModelConfig,
    PopularityConfig,
    RecentPopularityConfig,
    ReplayConfig,
    SASRecConfig,
)
from recsys.config.text import CategoryPopularityConfig, RecformerConfig, TextKNNConfig
from recsys.config.training import TrainingConfig

__all__ = [
    "BERT4RecConfig",
    "CategoryPopularityConfig",
    "CleanConfig",
    "Columns",
    "Config",
    "DataConfig",
    "EncoderConfig",
    "ExperimentConfig",
    "GlobalTime",
    "IndexConfig",
    "ItemColumns",
    "ItemKNNConfig",
    "LeaveOneOut",
    "MarkovConfig",
    "ModelConfig",
    "PopularityConfig",
    "RecentPopularityConfig",
    "RecformerConfig",
    "ReplayConfig",
    "SASRecConfig",
    "SplitConfig",
    "TextKNNConfig",
    "TrackingConfig",
    "TrainingConfig",
    "UserHoldout",
    "build_config",
    "default_tracking_uri",
    "load_config",
    "sections_of",
    "setting_differences",
    "shown_uri",
]
