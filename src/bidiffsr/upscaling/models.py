"""Which model upscales which picture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Unpack

from bidiffsr.backends.options import BackendKeywords
from bidiffsr.models.catalog import default_model
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler

_CHOICES = {default_model(scale, quality) for scale, quality in product((None, 2), (None, "fast"))}
"""All that "default" can stand for."""


class Models:
    """Models for pictures of different options, all in memory.

    Args:
        main: what tells clients of scale and qualities, and upscales where no other is named.
        others: "default" models by name, that upscale what `default_model` chooses them for.
    """

    def __init__(self, main: Upscaler, others: Mapping[str, Upscaler] | None = None) -> None:
        self.main = main
        self._others = others or {}
        self._last = main

    @classmethod
    def load(cls, model: str = "default", **options: Unpack[BackendKeywords]) -> Models:
        """The one that is named; with "default" all that `default_model` may choose.

        Args:
            model: see ``Upscaler.from_pretrained``.
            options: the same.

        Raises:
            CheckpointError: as there.
            ConfigError: as there.
        """
        main = Upscaler.from_pretrained(model, **options)
        if model != "default":
            return cls(main)
        names = _CHOICES - {default_model()}
        return cls(main, {name: Upscaler.from_pretrained(name, **options) for name in names})

    def of(self, options: UpscaleOptions) -> Upscaler:
        """What upscales with these options, as asked for or as checked."""
        return self._others.get(default_model(options.scale, options.quality), self.main)

    def turn_to(self, options: UpscaleOptions) -> Upscaler:
        """As ``of``, for a picture that is now upscaled; the model before gives its memory back."""
        upscaler = self.of(options)
        last, self._last = self._last, upscaler
        if last is not upscaler:
            last.release_memory()
        return upscaler
