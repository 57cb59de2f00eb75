"""Weight files in and out: our model files, and the published checkpoints.

Nothing is unpickled beyond tensors, and no tensor is allocated before the file's shapes are known
to fit the configuration.
"""

from bidiffsr.checkpoint.models import is_model, load_model, save_model
from bidiffsr.checkpoint.options import reference_network_config
from bidiffsr.checkpoint.reference import convert_reference, from_reference

__all__ = [
    "convert_reference",
    "from_reference",
    "is_model",
    "load_model",
    "reference_network_config",
    "save_model",
]
