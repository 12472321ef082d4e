"""One line of a table of known models."""

from dataclasses import dataclass

from embedkd.records import OutputSpec, Preprocess


@dataclass(frozen=True)
class KnownModel:
    """What can be told about a model without loading it.

    Attributes:
        source: Where its weights come from: a hub repository or a package.
        outputs: What it offers.
        parameters: Number of weights of the image tower that take part.
        preprocess: The transform that belongs to its weights.
        licence: Licence of the weights; None where nobody states one.
        also_in: Another library that has a model of this name, for the note of a bare name.
    """

    source: str
    outputs: tuple[OutputSpec, ...]
    parameters: int
    preprocess: Preprocess
    licence: str | None = None
    also_in: str | None = None
