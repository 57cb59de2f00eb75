"""The checkpoints of the published code, read as our networks."""

from bidiffsr.models.published.convert import convert_reference, from_reference
from bidiffsr.models.published.options import reference_network_config

__all__ = ["convert_reference", "from_reference", "reference_network_config"]
