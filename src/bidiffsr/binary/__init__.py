"""Binarization: signs and their gradients, binary convolutions, and the methods made of them."""

from bidiffsr.binary.fused import compiled_kernels
from bidiffsr.binary.layers import BinaryConv2d, ConvBlock, TimestepRPReLU, TimestepShift, fuse
from bidiffsr.binary.methods import BiDiffSR, ConvMethod, FullPrecision, method_for
from bidiffsr.binary.quantizers import ActivationSign, ScaledWeightSign

__all__ = [
    "ActivationSign",
    "BiDiffSR",
    "BinaryConv2d",
    "ConvBlock",
    "ConvMethod",
    "FullPrecision",
    "ScaledWeightSign",
    "TimestepRPReLU",
    "TimestepShift",
    "compiled_kernels",
    "fuse",
    "method_for",
]
