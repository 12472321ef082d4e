"""Keys of packed samples: safe in a tar, on any file system and for webdataset, which cuts names at the first dot."""

import hashlib
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from embedkd.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_SLUG = 72  # with a hash and a suffix the name still fits the 100 bytes of a plain tar header


def sample_keys(names: "Sequence[str]") -> dict[str, str]:
    """A key for each name: letters, digits, ``_`` and ``-`` of ASCII, at most 89, different in any letter case.

    Names that become equal, empty or too long get a hash of the name.

    >>> sample_keys(["cat/old.photo.jpg", "dog/1.png"])
    {'cat/old.photo.jpg': 'cat_old_photo', 'dog/1.png': 'dog_1'}

    Raises:
        SourceError: A name comes twice.
    """
    plain = {name: _slug(name) for name in names}
    seen = Counter(slug.casefold() for slug in plain.values())
    keys = {name: slug if slug and seen[slug.casefold()] == 1 else _hashed(slug, name) for name, slug in plain.items()}
    if len({key.casefold() for key in keys.values()}) < len(names):
        raise SourceError(f"two of {len(names)} samples share a name; give every sample its own")
    return keys


def _slug(name: str) -> str:
    stem = re.sub(r"\.[^./]*$", "", name)
    ascii_only = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_only).strip("_-")
    return slug if len(slug) <= _MAX_SLUG else _hashed(slug, name)


def _hashed(slug: str, name: str) -> str:
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{slug[:_MAX_SLUG].rstrip('_-')}-{digest}".lstrip("-")
