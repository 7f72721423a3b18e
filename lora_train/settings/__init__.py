"""The one settings object and how it is read."""

from .options import OPTIMIZERS, SCHEDULERS, TrainSettings, schema
from .reading import WITHOUT_EFFECT, from_dict, load, read_config

__all__ = ["OPTIMIZERS", "SCHEDULERS", "WITHOUT_EFFECT", "TrainSettings", "from_dict", "load", "read_config", "schema"]
