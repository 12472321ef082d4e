"""The root group of a store: its id, its capacity, and how images were decoded."""

from typing import TYPE_CHECKING, Any

from embedkd.errors import FormatError, ObjectMissingError
from embedkd.records import DecodePolicy
from embedkd.store.documents import MAX_DOCUMENT_BYTES, unseal_group
from embedkd.store.schema import MAX_CAPACITY, ROOT, check_capacity

if TYPE_CHECKING:
    from embedkd.storage import Storage
    from embedkd.store.documents import Fields

MAX_PIXELS = 1 << 28  # 0.8 GB decoded, in every worker of whoever trains on a stranger's store


def read_root(storage: "Storage") -> "Fields":
    """The attributes of a store's root group: ``store_uuid``, ``capacity`` and ``decode``, all checked.

    Raises:
        FormatError: There is no store of a format that this version reads.
        IntegrityError: It was changed after it was written.
    """
    try:
        root = storage.get(ROOT, limit_bytes=MAX_DOCUMENT_BYTES)
    except ObjectMissingError as error:
        raise FormatError(f"{storage.url} is no embedding store; make one with embedkd precompute") from error
    facts = unseal_group(root, f"{storage.url}/{ROOT}")
    check_capacity(facts.number("capacity", low=1, high=MAX_CAPACITY))
    facts.text("store_uuid")
    policy_of(facts)
    return facts


def policy_facts(policy: DecodePolicy) -> dict[str, Any]:
    """A decode policy as JSON values."""
    return {"background": list(policy.background), "exif": policy.exif, "max_pixels": policy.max_pixels}


def policy_of(facts: "Fields") -> DecodePolicy:
    """The decode policy among a root group's attributes.

    Raises:
        FormatError: It is none, or would let images through that no machine should decode.
    """
    decode = facts.member("decode")
    background = decode.numbers("background", limit=3, high=255)
    if len(background) != 3:
        raise FormatError(f"{decode.where}: expected a background of 3 numbers, got {len(background)}")
    red, green, blue = background
    return DecodePolicy((red, green, blue), decode.flag("exif"), decode.number("max_pixels", low=1, high=MAX_PIXELS))
