"""What is compared: models at qualities, each with the seeds it is drawn by, beside bicubic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidiffsr.errors import ConfigError, OptionError

if TYPE_CHECKING:
    from bidiffsr.backends.options import BackendOptions
    from bidiffsr.config import NetworkConfig
    from bidiffsr.evaluation import Method
    from bidiffsr.nn.counting import LayerCount
    from bidiffsr.upscaling.options import UpscaleOptions
    from bidiffsr.upscaling.upscaler import Upscaler

_COUNTED = 256  # pixels a side, as in the papers


@dataclass(frozen=True)
class Contender:
    """One row of a comparison."""

    name: str
    draws: Mapping[int | None, Method]
    """By seed; a method without noise is there once, under None."""
    cost: LayerCount | None
    """Of one step at 3×256×256; None where no network runs, or not at this size."""


@dataclass(frozen=True)
class _Asked:
    """A model as it is asked for."""

    label: str | None
    """None where none is given."""
    file: str

    @classmethod
    def parse(cls, text: str) -> _Asked:
        """``LABEL=FILE``, or a file; what is there as it stands is a file."""
        label, separator, file = text.partition("=")
        if not separator or Path(text).exists():
            return cls(None, text)
        if label in ("", "bicubic") or not file:
            raise OptionError("model", f"got {text!r}, expected FILE or LABEL=FILE")
        return cls(label, file)

    @property
    def short(self) -> str:
        """Its label, or the file's name; of what training writes, the folder's."""
        if self.label is not None:
            return self.label
        file = Path(self.file)
        if file.suffix != ".safetensors":
            return self.file
        return file.absolute().parent.name if file.stem == "model" else file.stem


def contenders(
    models: Sequence[str],
    running: BackendOptions,
    asked: Sequence[UpscaleOptions],
    seeds: Sequence[int],
) -> tuple[list[Contender], int]:
    """Load the models and check the options before any work.

    Args:
        models: as `bidiffsr eval --model` takes them. Those with one label share a row, where they
            are told apart by numbers from 0 in place of the seed, of which there is then one.
        running: what runs the networks.
        asked: a row for each label and each of these, which share their scale.
        seeds: in place of theirs.

    Returns:
        The rows, bicubic's first, and the scale.

    Raises:
        ConfigError, CheckpointError: a model cannot be loaded, or cannot do what is asked.
    """
    from bidiffsr.evaluation import bicubic
    from bidiffsr.models.catalog import default_model
    from bidiffsr.upscaling.upscaler import Upscaler

    scale, rows = asked[0].scale, _rows(models)

    @cache
    def load(model: str) -> Upscaler:
        return Upscaler.from_pretrained(model, **asdict(running))

    def upscaler_for(file: str, options: UpscaleOptions) -> Upscaler:
        # Each file is loaded once, whatever the qualities; "default" may be another one for each.
        return load(default_model(scale, options.quality) if file == "default" else file)

    every = [
        upscaler_for(member.file, options)
        for members in rows.values()
        for member in members
        for options in asked
    ]
    factor = scale or min((each.config.scale for each in every), default=4)
    found = [Contender("bicubic", {None: bicubic}, None)]
    for name, members in rows.items():
        for options in asked:
            upscalers = {member.file: upscaler_for(member.file, options) for member in members}
            network, *others = (each.config.network for each in upscalers.values())
            if any(other != network for other in others):
                raise OptionError("model", f"the files of {name} hold different networks")
            if others and len(seeds) > 1:
                raise OptionError("seed", f"given {len(seeds)} times, and {name} has several files")
            row = name if options.quality is None else f"{name} ({options.quality})"
            draws: dict[int | None, Method] = {
                number if others else seed: _method(
                    upscaler, file, replace(options, scale=factor, seed=seed)
                )
                for number, (file, upscaler) in enumerate(upscalers.items())
                for seed in seeds
            }
            found.append(Contender(row, draws, _cost(network)))
    return found, int(factor)


def _rows(models: Sequence[str]) -> dict[str, list[_Asked]]:
    """What is asked for, by short names if all of these differ, or else by the files' paths."""
    asked = [_Asked.parse(model) for model in dict.fromkeys(models) if model != "bicubic"]
    labels = {"bicubic", *(each.label for each in asked)}
    short = [each.short for each in asked if each.label is None]
    clear = len(set(short)) == len(short) and not labels & set(short)
    rows: dict[str, list[_Asked]] = {}
    for each in asked:
        name = each.short if clear else each.label or each.file
        rows.setdefault(name, []).append(each)
    return rows


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
