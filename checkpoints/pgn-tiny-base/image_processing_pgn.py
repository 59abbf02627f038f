"""Image processing of PGN: BLIP-2's, on PIL, so that nothing needs torchvision."""

from transformers.image_processing_backends import PilBackend
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling


class PGNImageProcessor(PilBackend):
    """Bicubic resize to a square, then normalisation with CLIP's mean and standard deviation.

    Frames keep their left and right: nothing here flips or crops.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    default_to_square = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
