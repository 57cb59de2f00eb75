"""LPIPS with VGG16 as a training loss: differentiable, where `evaluation/lpips.py` is the metric.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018. Scores are taken with AlexNet's features, so that a network which is
trained with these is not scored by what it was trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bidiffsr.evaluation.lpips import SCALE, SHIFT
from bidiffsr.models.container import TensorFile, open_tensor_file
from bidiffsr.system.files import StrPath

_BLOCKS = (2, 2, 3, 3, 3)  # convolutions; each block but the first begins with a max-pooling
_CHANNELS = (64, 128, 256, 512, 512)


class VggDistance(nn.Module):
    """How far apart pictures look by the first blocks of VGG16.

    Args:
        path: a safetensors file with VGG16's ``conv{i}.weight`` and ``conv{i}.bias`` for i from 0
            to 12 and LPIPS's ``lin{i}.weight`` for i from 0 to 4, of floats, in PyTorch's order of
            axes; those of the blocks that are used.
        blocks: how many of the five; the distance is then a part of LPIPS, whole with 5.
        compiled: compare features in compiled loops; the first call takes some seconds.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds something else.
    """

    _shift: Tensor
    _scale: Tensor

    def __init__(self, path: StrPath, blocks: int = 5, *, compiled: bool = False) -> None:
        super().__init__()
        self._blocks = nn.ModuleList()
        self._heads = nn.ParameterList()
        with open_tensor_file(path) as file:
            channels, index = 3, 0
            for number, (depth, width) in enumerate(
                zip(_BLOCKS[:blocks], _CHANNELS[:blocks], strict=True)
            ):
                layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
                for _ in range(depth):
                    conv = nn.Conv2d(channels, width, 3, padding=1)
                    conv.weight.data = _read(file, f"conv{index}.weight", (width, channels, 3, 3))
                    conv.bias.data = _read(file, f"conv{index}.bias", (width,))  # type: ignore[union-attr]
                    layers += [conv, nn.ReLU()]
                    channels, index = width, index + 1
                self._blocks.append(nn.Sequential(*layers))
                self._heads.append(nn.Parameter(_read(file, f"lin{number}.weight", (width,))))
        self.register_buffer("_shift", torch.from_numpy(SHIFT)[:, None, None])
        self.register_buffer("_scale", torch.from_numpy(SCALE)[:, None, None])
        self._compare = torch.compile(_compare, dynamic=True) if compiled else _compare
        self.requires_grad_(False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Compare pictures pairwise; gradients flow into ``one``.

        Args:
            one: (N, 3, H, W) float32, [0, 1] but for overshoot, H and W at least 16.
            other: like ``one``.

        Returns:
            The distances, (N,) float32.
        """
        total = one.new_zeros(len(one))
        with torch.no_grad():
            references = self._features(other)
        for features, reference, head in zip(
            self._features(one), references, self._heads, strict=True
        ):
            total = total + self._compare(features, reference, head)
        return total

    def _features(self, pictures: Tensor) -> list[Tensor]:
        features = pictures.contiguous(memory_format=torch.channels_last)
        features = (2 * features - 1 - self._shift) / self._scale
        return [features := block(features) for block in self._blocks]


def _compare(one: Tensor, other: Tensor, head: Tensor) -> Tensor:
    # In float32 where products would be autocast.
    a, b = (functional.normalize(each.float(), dim=1, eps=1e-10) for each in (one, other))
    return ((a - b).square() * head[:, None, None]).sum(dim=1).mean(dim=(1, 2))


def _read(file: TensorFile, name: str, shape: tuple[int, ...]) -> Tensor:
    mend = "name the file that has them"
    return torch.from_numpy(
        file.read_floats(name, shape, whole="LPIPS weights of VGG16", mend=mend)
    )
