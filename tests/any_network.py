"""Strategies: any small network that a configuration can describe."""

from __future__ import annotations

from hypothesis import strategies as st

from bidiffsr.binary import METHODS
from bidiffsr.config import BiDiffSRConfig, SR3Config


@st.composite
def networks(draw: st.DrawFn, largest: int = 12) -> BiDiffSRConfig:
    """Any small network that a configuration can describe."""
    channels = draw(st.sampled_from([size for size in (2, 4, 6, 8, 12) if size <= largest]))
    levels = draw(st.integers(1, 3))
    resampling = draw(st.sampled_from(["consistent", "strided"]))
    multipliers = [2**level for level in range(levels)]
    if resampling == "strided":
        multipliers = [
            1,
            *draw(st.lists(st.integers(1, 3), min_size=levels - 1, max_size=levels - 1)),
        ]
    values = {
        "patch": draw(st.integers(1, 3)),
        "channels": channels,
        "multipliers": multipliers,
        "blocks_per_level": draw(st.integers(1, 2)),
        "norm_groups": draw(st.sampled_from([n for n in (1, 2, 3) if channels % n == 0])),
        "attention_levels": draw(st.lists(st.integers(0, levels - 1), max_size=3)),
        "full_precision_up_levels": draw(st.integers(0, levels)),
        "timesteps": 100,
        "time_groups": draw(st.integers(1, 3)),
        "method": draw(st.sampled_from(list(METHODS))),
        "resampling": resampling,
        "fusion": draw(st.sampled_from(["cs", "split", "concat", "add"])),
        "normalization": draw(st.sampled_from(["group", "affine"])),
        "middle_attention": draw(st.booleans()),
        "stem_condition": draw(st.sampled_from(["pixels", "mean"])),
        "weight_gain": draw(st.booleans()),
        "float_help": draw(st.sampled_from(["none", "none", "pointwise", "grouped"])),
        "identity_shortcut": draw(st.booleans()),
        "timestep_aware_redistribution": draw(st.booleans()),
        "timestep_aware_activation": draw(st.booleans()),
    }
    if values["method"] == "full-precision":
        values["float_help"] = "none"
    return BiDiffSRConfig.model_validate(values)


@st.composite
def sr3_networks(draw: st.DrawFn) -> SR3Config:
    """Any small network of the rival's kind."""
    channels = draw(st.sampled_from([2, 4, 6]))
    return SR3Config(
        patch=draw(st.integers(1, 3)),
        channels=channels,
        multipliers=tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))),
        blocks_per_level=draw(st.integers(1, 2)),
        norm_groups=draw(st.sampled_from([1, 2])),
    )
