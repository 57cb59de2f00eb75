"""An adversarial loss: a small discriminator learns what real detail is, beside the network.

Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014, with the hinge loss of Lim and Ye,
"Geometric GAN", 2017, and the spectral normalization of Miyato et al., ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import spectral_norm

from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.training.losses import Batch, Loss, seen_clean

_SLOPE = 0.2


class Discriminator(nn.Module):
    """Judges each part of a picture, of about 30 pixels a side, by itself; full precision.

    Args:
        channels: of the first layer; those after it have twice and four times as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        shapes = (
            (6, channels, 3, 1),
            (channels, 2 * channels, 4, 2),
            (2 * channels, 4 * channels, 4, 2),
            (4 * channels, 4 * channels, 3, 1),
            (4 * channels, 1, 3, 1),
        )
        layers: list[nn.Module] = []
        for wide, high, kernel, stride in shapes:
            layers += [
                spectral_norm(nn.Conv2d(wide, high, kernel, stride, 1)),
                nn.LeakyReLU(_SLOPE),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, clean: Tensor, conditions: Tensor) -> Tensor:
        """How real each part looks.

        Args:
            clean: the clean variable of diffusion, real or predicted, (N, 3, H, W) float32.
            conditions: the upscaled low-resolution pictures, like ``clean``, [0, 1].

        Returns:
            (N, 1, H / 4, W / 4), above 0 for what looks real.
        """
        both = torch.cat([clean, 2 * conditions - 1], dim=1)
        return self.layers(both.contiguous(memory_format=torch.channels_last))


class AdversarialLoss(Loss):
    """How unreal the predicted clean picture looks, wherever there is a signal.

    Args:
        discriminator: a ``Discriminator``, which learns with every update of the network.
        learning_rate: of the discriminator.
        autocast: the precision that it computes in.
        average: a tensor's mean over all processes.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        learning_rate: float,
        autocast: Callable[[], AbstractContextManager[object]],
        average: Callable[[Tensor], Tensor],
    ) -> None:
        self._discriminator = discriminator.requires_grad_(False)
        self._optimizer = torch.optim.Adam(
            discriminator.parameters(), learning_rate, betas=(0.5, 0.99)
        )
        self._autocast = autocast
        self._average = average
        self._shown: list[tuple[Tensor, Tensor, Tensor]] = []
        self._samples = 0

    def __call__(self, prediction: Tensor, batch: Batch, diffusion: Diffusion) -> Tensor:
        """See ``Loss.__call__``."""
        seen, clean = seen_clean(prediction, batch, diffusion)
        conditions = batch.conditions[seen]
        truth = diffusion.to_variable(batch.pictures[seen], conditions)
        self._shown.append((clean.detach(), truth, conditions))
        self._samples += len(prediction)
        self._discriminator.eval()
        return -_sum(self._judge(clean, conditions)) / len(prediction)

    def learn(self) -> None:
        """Let the discriminator learn from what it was shown since the last update.

        All processes come here equally often, and one that has seen nothing takes part, too.
        """
        predicted, truth, conditions = (torch.cat(each) for each in zip(*self._shown, strict=True))
        self._discriminator.requires_grad_(True).train()
        verdicts = self._judge(torch.cat([truth, predicted]), conditions.repeat(2, 1, 1, 1))
        real, unreal = verdicts.chunk(2)
        self._optimizer.zero_grad()
        ((_sum(relu(1 - real)) + _sum(relu(1 + unreal))) / self._samples).backward()
        for parameter in self._discriminator.parameters():
            assert parameter.grad is not None
            parameter.grad = self._average(parameter.grad)
        self._optimizer.step()
        self._discriminator.requires_grad_(False)
        self._shown, self._samples = [], 0

    def state_dict(self) -> dict[str, Any]:
        """See ``Loss.state_dict``."""
        return {
            "discriminator": self._discriminator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Loss.load_state_dict``."""
        self._discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _judge(self, clean: Tensor, conditions: Tensor) -> Tensor:
        with self._autocast():
            return self._discriminator(clean, conditions).float()


def _sum(verdicts: Tensor) -> Tensor:
    """Over pictures, of the means over their parts."""
    return verdicts.mean(dim=(1, 2, 3)).sum()
