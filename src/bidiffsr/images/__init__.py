"""Pictures: in memory, in files, in a caller's own forms, and resized."""

from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.decode import decode_image
from bidiffsr.images.encode import encode_image
from bidiffsr.images.find import IMAGE_SUFFIXES, find_images
from bidiffsr.images.image import Image, from_float, to_float
from bidiffsr.images.resize import cubic_upscale, imresize

__all__ = [
    "IMAGE_SUFFIXES",
    "Image",
    "cubic_upscale",
    "decode_image",
    "encode_image",
    "find_images",
    "from_float",
    "imresize",
    "read_image",
    "to_float",
    "write_image",
]
