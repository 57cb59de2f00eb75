"""The eight ways to turn and mirror a picture, whose results can be averaged.

Source: Timofte et al., "Seven ways to improve example-based single image super resolution", CVPR
2016, "Enhanced prediction".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class View:
    """One way to look at a picture."""

    upside_down: bool = False
    mirrored: bool = False
    turned: bool = False
    """Rows become columns."""

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A view of ``picture`` (C, H, W): (C, H, W), or (C, W, H) where it is turned."""
        seen = picture[:, :: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]
        return seen.swapaxes(1, 2) if self.turned else seen

    def undone(self, seen: NDArray[Any]) -> NDArray[Any]:
        """The picture (C, H, W) of which this is the view."""
        picture = seen.swapaxes(1, 2) if self.turned else seen
        return picture[:, :: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


AS_IT_IS = (View(),)
ALL_VIEWS = tuple(View(*choice) for choice in product((False, True), repeat=3))
"""The first is the picture as it is."""
