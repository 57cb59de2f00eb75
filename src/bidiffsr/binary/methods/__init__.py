"""The binarization methods, each in a file of its own: what fills the slots of a convolution.

Importing them loads no PyTorch; building their convolutions does.
"""

from __future__ import annotations

from bidiffsr.binary.methods.base import ConvMethod, FloatHelp, MethodOptions
from bidiffsr.binary.methods.bbcu import BBCU
from bidiffsr.binary.methods.bi_diffsr import BiDiffSR
from bidiffsr.binary.methods.bi_real import BiReal
from bidiffsr.binary.methods.bnn import BNN
from bidiffsr.binary.methods.dorefa import DoReFa, DoReFaTwoBit
from bidiffsr.binary.methods.full_precision import FullPrecision
from bidiffsr.binary.methods.helped import Helped
from bidiffsr.binary.methods.ir_net import IRNet
from bidiffsr.binary.methods.reactnet import ReActNet
from bidiffsr.binary.methods.recu import ReCU
from bidiffsr.binary.methods.xnor_net import XNORNet

METHODS: dict[str, type[ConvMethod]] = {
    "bi-diffsr": BiDiffSR,
    "full-precision": FullPrecision,
    "reactnet": ReActNet,
    "bi-real": BiReal,
    "bnn": BNN,
    "dorefa": DoReFa,
    "dorefa-w1a2": DoReFaTwoBit,
    "xnor-net": XNORNet,
    "ir-net": IRNet,
    "bbcu": BBCU,
    "recu": ReCU,
}
"""By the name that configurations and model files call them by."""


def method_for(options: MethodOptions) -> ConvMethod:
    """The method that a network's configuration names, for the layers it binarizes.

    With the full-precision help that it asks for, which a method that binarizes nothing never has.
    """
    method = METHODS[options.method]
    helped = options.float_help != "none" and method is not FullPrecision
    return (Helped if helped else method).of(options)


__all__ = [
    "METHODS",
    "BiDiffSR",
    "ConvMethod",
    "FloatHelp",
    "FullPrecision",
    "MethodOptions",
    "method_for",
]
