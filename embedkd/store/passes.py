"""A pass: one teacher, a set of outputs, and everything that the bytes of its rows depend on."""

import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from embedkd.errors import FormatError, IntegrityError, ObjectMissingError
from embedkd.records import blake2b_hex, canonical_json
from embedkd.store.documents import MAX_DOCUMENT_BYTES, digest_of, unseal
from embedkd.store.schema import is_output_name, teacher_folder

if TYPE_CHECKING:
    from embedkd.storage import Storage
    from embedkd.store.documents import Fields

PREFIX = "pass-"
MAX_OUTPUTS = 256
_PASS_ID = re.compile(r"pass-[0-9a-f]{8}")


@dataclass(frozen=True)
class Pass:
    """What is fixed when a pass begins. With the same facts, the array bytes are the same, whoever computes them.

    Attributes:
        outputs: Names, in the teacher's order.
        batch_size: Samples a forward pass; a batch never spans two slots.
        threads: Threads of one teacher process.
        device: Model of the CPU or GPU, for people.
        views: Number of stored views (1: the plain view, the only one that this version reads and writes).
        compiled: Whether the teacher was compiled (`torch.compile`), which changes last bits.
        own_digest: The digest that its ``pass.json`` carries, where it was read from one: it covers members of later
            versions too.
    """

    outputs: tuple[str, ...]
    batch_size: int
    threads: int
    device: str
    views: int = 1
    compiled: bool = False
    own_digest: str = field(default="", compare=False, repr=False)

    @property
    def pass_id(self) -> str:
        """Folder name: a function of outputs and views alone, so that two writers meet in one pass."""
        return PREFIX + blake2b_hex(canonical_json([list(self.outputs), self.views]))[:8]

    @property
    def digest(self) -> str:
        """The digest that its ``pass.json`` carries."""
        return self.own_digest or digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        facts = {**asdict(self), "outputs": list(self.outputs)}
        del facts["own_digest"]
        return facts

    @classmethod
    def from_json(cls, document: "Fields") -> "Pass":
        """The inverse of `to_json`.

        Raises:
            FormatError: A field is missing, of another type, or says what this version cannot read.
        """
        result = cls(
            outputs=document.texts("outputs", MAX_OUTPUTS),
            batch_size=document.number("batch_size", low=1),
            threads=document.number("threads", low=1),
            device=document.text("device"),
            views=document.number("views", low=1),
            compiled=document.flag("compiled"),
            own_digest=document.own_digest,
        )
        if result.views != 1:
            raise FormatError(f"{document.where} has {result.views} views a sample; this version reads stores of one")
        if not result.outputs or len(set(result.outputs)) != len(result.outputs):
            raise FormatError(f"{document.where}: expected different outputs, at least one")
        odd = next((name for name in result.outputs if not is_output_name(name)), None)
        if odd is not None:
            raise document.unexpected("an output name such as 'cls'", odd)
        return result


def pass_folder(teacher_id: str, pass_id: str) -> str:
    """Folder of one pass."""
    return f"{teacher_folder(teacher_id)}/{pass_id}"


def commit_key(teacher_id: str, pass_id: str, slot: int) -> str:
    """Key of one slot's commit."""
    return f"{pass_folder(teacher_id, pass_id)}/commits/{slot}.json"


def is_pass_id(name: str) -> bool:
    """Whether a Pass could derive this folder name."""
    return _PASS_ID.fullmatch(name) is not None


def read_passes(storage: "Storage", teacher_id: str) -> dict[str, Pass]:
    """All passes of a teacher that were begun, by id.

    A folder without ``pass.json`` and without commits is what a writer leaves that was killed while it began.

    Raises:
        FormatError: A ``pass.json`` is not of format 1.
        IntegrityError: A ``pass.json`` was changed, belongs to another pass, or is gone.
    """
    passes = {}
    for name in storage.list_names(teacher_folder(teacher_id)):
        if not is_pass_id(name):
            continue
        folder = pass_folder(teacher_id, name)
        key = f"{folder}/pass.json"
        try:
            plan = Pass.from_json(unseal(storage.get(key, limit_bytes=MAX_DOCUMENT_BYTES), key))
        except ObjectMissingError as error:
            if storage.list_names(f"{folder}/commits"):
                raise IntegrityError(f"{storage.url} has commits of {name} and lacks {key}; restore it") from error
            continue
        if plan.pass_id != name:
            raise IntegrityError(f"{key} belongs to {plan.pass_id}; restore it")
        passes[name] = plan
    return passes
