"""What a network predicts, and how the clean variable and the noise follow from it.

Plain arithmetic: ``x`` may be a numpy array or a torch tensor, levels floats or like ``x``.
"""

from __future__ import annotations

from typing import Any, Protocol

Array = Any
"""A numpy array or a torch tensor."""


class Prediction(Protocol):
    """One prediction type; x = signal · clean + noise_level · noise throughout."""

    def target(self, clean: Array, noise: Array, signal: Array, noise_level: Array) -> Array:
        """What the network is trained to predict."""
        ...

    def clean(self, prediction: Array, x: Array, signal: Array, noise_level: Array) -> Array:
        """The clean variable that follows from the network's prediction of ``x``."""
        ...

    def noise(self, prediction: Array, x: Array, signal: Array, noise_level: Array) -> Array:
        """The noise that does."""
        ...


class Epsilon:
    """The noise itself (Ho et al. 2020)."""

    def target(self, clean: Array, noise: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.target``."""
        return noise

    def clean(self, prediction: Array, x: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.clean``; undefined where the signal level is 0."""
        return (x - noise_level * prediction) / signal

    def noise(self, prediction: Array, x: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.noise``."""
        return prediction


class Velocity:
    """v = signal · noise - noise_level · clean (Salimans and Ho 2022, appendix D)."""

    def target(self, clean: Array, noise: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.target``."""
        return signal * noise - noise_level * clean

    def clean(self, prediction: Array, x: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.clean``."""
        return signal * x - noise_level * prediction

    def noise(self, prediction: Array, x: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.noise``."""
        return signal * prediction + noise_level * x


class Sample:
    """The clean variable."""

    def target(self, clean: Array, noise: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.target``."""
        return clean

    def clean(self, prediction: Array, x: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.clean``."""
        return prediction

    def noise(self, prediction: Array, x: Array, signal: Array, noise_level: Array) -> Array:
        """See ``Prediction.noise``."""
        return (x - signal * prediction) / noise_level


PREDICTIONS: dict[str, Prediction] = {"epsilon": Epsilon(), "v": Velocity(), "sample": Sample()}
