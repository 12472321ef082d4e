"""Real images for reference tests: clip art as precompute decodes it, in its own odd shapes and in two odder ones."""

import tarfile
from functools import cache
from pathlib import Path

from PIL import Image

from embedkd.sources.images import decode_image

_SHARD = Path(__file__).parents[2] / "data" / "clipart" / "shards" / "test-000000.tar"


@cache
def pictures() -> tuple[Image.Image, ...]:
    """Five images from the embedded data set, one upright strip and one small one."""
    images: list[Image.Image] = []
    with tarfile.open(_SHARD) as tar:
        for member in tar:
            file = tar.extractfile(member) if Path(member.name).suffix not in {".cls", ".txt", ".json"} else None
            if file is not None and len(images) < 5:
                images.append(decode_image(file.read()))
    return (*images, images[0].resize((40, 200)), images[1].resize((21, 17)))
