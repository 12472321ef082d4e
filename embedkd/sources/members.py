"""Which members of a tar are which field of which sample: webdataset's rules, for single names."""

import re

# The members that webdataset skips, and how it cuts a name: tar_file_iterator's and base_plus_ext's own words.
_META = re.compile(r"__[^/]*__($|/)")
_FIELD = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


def is_meta(name: str) -> bool:
    """Whether webdataset looks away from a member of that name.

    >>> is_meta("__shard__/a.jpg"), is_meta("a/__b__.jpg")
    (True, False)
    """
    return _META.match(name) is not None


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """A member's sample and field, or None where it belongs to no sample.

    >>> key_and_suffix("a.b/x.y.JPG"), key_and_suffix("README")
    (('a.b/x', 'y.jpg'), None)
    """
    found = None if is_meta(name) else _FIELD.match(name)
    return None if found is None else (found[1], found[2].lower())
