"""Weight files in and out: our model files, and the published checkpoints.

Nothing is unpickled beyond tensors, and no tensor is allocated before the file's shapes are known
to fit the configuration.
"""

from bidiffsr.checkpoint.models import load_model, parameters_of, save_model
from bidiffsr.checkpoint.options import reference_network_config
from bidiffsr.checkpoint.reference import convert_reference, from_reference

__all__ = [
    "convert_reference",
    "from_reference",
    "load_model",
    "parameters_of",
    "reference_network_config",
    "save_model",
]
