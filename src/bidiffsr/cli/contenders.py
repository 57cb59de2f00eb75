"""What is compared: models at qualities, each with the seeds it is drawn by, beside bicubic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bidiffsr.errors import ConfigError

if TYPE_CHECKING:
    from bidiffsr.backends.options import BackendOptions
    from bidiffsr.config import NetworkConfig
    from bidiffsr.evaluation import Method
    from bidiffsr.nn.counting import LayerCount
    from bidiffsr.upscaling.options import UpscaleOptions

_COUNTED = 256  # pixels a side, as in the papers


@dataclass(frozen=True)
class Contender:
    """One row of a comparison."""

    name: str
    draws: Mapping[int | None, Method]
    """By seed; a method without noise is there once, under None."""
    cost: LayerCount | None
    """Of one step at 3×256×256; None where no network runs, or not at this size."""


def contenders(
    models: Sequence[str],
    running: BackendOptions,
    asked: Sequence[UpscaleOptions],
    seeds: Sequence[int],
) -> tuple[list[Contender], int]:
    """Load the models and check the options before any work.

    Args:
        models: as `bidiffsr eval --model` takes them.
        running: what runs the networks.
        asked: a row for each model and each of these, which share their scale.
        seeds: in place of theirs.

    Returns:
        The rows, bicubic's first, and the scale.

    Raises:
        ConfigError, CheckpointError: a model cannot be loaded, or cannot do what is asked.
    """
    from bidiffsr.evaluation import bicubic
    from bidiffsr.upscaling.upscaler import Upscaler

    scale = asked[0].scale
    upscalers = {
        name: Upscaler.from_pretrained(name, scale=scale, **asdict(running))
        for name in dict.fromkeys(models)
        if name != "bicubic"
    }
    factor = scale or min((each.config.scale for each in upscalers.values()), default=4)
    found = {"bicubic": Contender("bicubic", {None: bicubic}, None)}
    for name, upscaler in upscalers.items():
        cost = _cost(upscaler.config.network)
        for options in asked:
            row = name if options.quality is None else f"{name} ({options.quality})"
            draws: dict[int | None, Method] = {
                seed: _method(upscaler, name, replace(options, scale=factor, seed=seed))
                for seed in seeds
            }
            found[row] = Contender(row, draws, cost)
    return list(found.values()), int(factor)


def _method(upscaler: Any, name: str, options: UpscaleOptions) -> Method:
    try:
        upscaler.check(options)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    upscale: Any = partial(upscaler, **asdict(options))
    return lambda low, _: upscale(low)


def _cost(network: NetworkConfig) -> LayerCount | None:
    from bidiffsr.nn.counting import count, total

    if _COUNTED % network.size_multiple:
        return None
    return total(count(network, _COUNTED, _COUNTED))
