"""What ``embedkd head`` does: a head for one of a store's teachers, and its logits as rows of a derived teacher."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from embedkd.errors import HoleError, StoreError, UnknownNameError
from embedkd.heads.derived import LOGITS, write_logits
from embedkd.heads.linear import fit_head
from embedkd.heads.scores import score
from embedkd.heads.zero_shot import zero_shot_head
from embedkd.precompute import add_class_set
from embedkd.progress import Progress, Silent
from embedkd.store import EmbeddingStore, TeacherView, open_store
from embedkd.store.averaging import commits_digest
from embedkd.store.heads import Head, check_name, head_names, is_derived, read_head, write_head
from embedkd.store.siblings import without_views
from embedkd.training.device import resolve_device

if TYPE_CHECKING:
    from embedkd.config import AverageConfig
    from embedkd.config.tuning import HeadConfig


@dataclass(frozen=True)
class HeadResult:
    """What came of a head.

    Attributes:
        store: Path of the store.
        head: Name of the head.
        kind: "linear" or "zero-shot".
        teacher: Name of the teacher whose rows it reads.
        output: Which rows.
        derived: Name of the teacher whose ``logits`` the store has now.
        derived_id: Its folder.
        classes: Width of the logits.
        l2: Strength of the penalty; None where nothing was fitted.
        l2_losses: Strength to mean cross-entropy on the rows that chose it; empty where it was given or known already.
        train_top1: Share of right answers on training rows, out of fold; likewise on the other splits, None without.
        val_top1: On the validation split.
        test_top1: On the test split.
        temperature: The one that calibrates the logits on the validation split, out of a grid; None without the split.
        views: Stored views of the derived teacher: as many as the teacher has.
    """

    store: str
    head: str
    kind: str
    teacher: str
    output: str
    derived: str
    derived_id: str
    classes: int
    l2: float | None
    l2_losses: dict[str, float]
    train_top1: float | None
    val_top1: float | None
    test_top1: float | None
    temperature: float | None
    views: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for people."""
        train = "train (out of fold)" if self.kind == "linear" else "train"
        shares = {train: self.train_top1, "validation": self.val_top1, "test": self.test_top1}
        known = ", ".join(f"{split} {share:.1%}" for split, share in shares.items() if share is not None)
        l2 = "" if self.l2 is None else f", l2 {self.l2:g}"
        heat = "" if self.temperature is None else f", calibrated at temperature {self.temperature:.2g}"
        seen = f" and of {self.views} views" if self.views else ""
        return f"{self.derived}: logits of {self.classes} classes{seen}, top-1 {known or 'not measured'}{l2}{heat}"


def make_head(config: "HeadConfig", averages: "AverageConfig", progress: Progress | None = None) -> HeadResult:
    """Fit or build a head, keep it in the store, and write its logits as the rows of a derived teacher.

    A head that is there already is not fitted again; slots that have their logits are skipped. Where the teacher has
    stored views, so has the derived one: a head is fitted to whole images and asked about views too.

    Args:
        config: Which head of which rows.
        averages: Class means of the logits, made as precompute makes them.
        progress: Who watches.

    Raises:
        FormatError: The name is none for a head.
        UnknownNameError: The store has no such teacher, output or class set.
        HoleError: The teacher's rows are not complete.
        StoreError: The store cannot be trusted, has no labels, or has another head of that name.
        ConflictError: Another writer put other logits.
    """
    watch = progress or Silent()
    view = _base_teacher(open_store(config.store), config.teacher)
    output = _output(view, config)
    name = config.name or config.kind
    check_name(name)
    losses: dict[float, float] = {}
    if name in head_names(view):
        head = _same_head(view, read_head(view, name), output, config)
        watch.line(f"head '{name}' is there already; its logits are completed where they are missing")
    elif config.kind == "linear":
        fitted = fit_head(view, output, name, config, resolve_device(config.device), watch)
        head, losses = fitted.head, fitted.losses
        if fitted.chosen_on is not None:
            tried = ", ".join(f"{l2:g}: {loss:.4f}" for l2, loss in losses.items())
            watch.line(f"l2 {head.l2:g} has the lowest cross-entropy on the {fitted.chosen_on} ({tried})")
        write_head(view, head)
    else:
        head = zero_shot_head(view, output, name, config.class_set)
        write_head(view, head)
    derived = write_logits(view, head, watch)
    add_class_set(derived, LOGITS, averages, watch)
    views = _write_views(view, head, watch)
    return replace(_result(view, head, derived, losses), views=views)


def _write_views(view: TeacherView, head: Head, watch: Progress) -> int:
    """Logits of every stored view of a teacher that has the head's output; how many these are."""
    views = [view.store.teacher(name) for name in view.store.views_of(view.teacher_id)]
    seen = [one for one in views if head.output in one.outputs]
    for one in seen:
        write_logits(one, head, watch)
    if len(seen) < len(views):
        watch.line(f"no logits of {len(views) - len(seen)} of {len(views)} views: they have no {head.output}")
    return len(seen)


def _base_teacher(store: EmbeddingStore, name: str | None) -> TeacherView:
    """The teacher of that name, or the only one that no head made."""
    if name is not None:
        view = store.teacher(name)
        if view.spec.view is not None:
            raise StoreError(f"a head is fitted to whole images, and {name} is a view; name {view.spec.name}")
        return view
    bases = [key for key, spec in without_views(store.teachers).items() if not is_derived(spec)]
    if len(bases) == 1:
        return store.teacher(bases[0])
    if not bases:
        raise HoleError(f"{store.storage.url} has no teacher's rows yet; run embedkd precompute")
    names = ", ".join(sorted(store.teachers[key].name for key in bases))
    raise StoreError(f"{store.storage.url} has several teachers; name one with --teacher: {names}")


def _output(view: TeacherView, config: "HeadConfig") -> str:
    """The output that the config names, else the model's own embedding, else the first stored one."""
    if config.output is not None:
        if config.output not in view.outputs:
            raise UnknownNameError(
                f"output of {view.spec.name} in {view.store.storage.url}", config.output, view.outputs
            )
        return config.output
    stored = [name for name in ("image", "cls", "pooled") if name in view.outputs]
    if not (stored or view.outputs):
        raise HoleError(f"{view.store.storage.url} holds nothing of {view.spec.name} yet; run embedkd precompute")
    return [*stored, *view.outputs][0]


def _same_head(view: TeacherView, head: Head, output: str, config: "HeadConfig") -> Head:
    """The stored head, if it is the one that is asked for.

    Raises:
        StoreError: It was made in another way, or from other rows.
    """
    asked: dict[str, object] = {"kind": config.kind, "output": output}
    if config.kind == "linear":
        slots = [slot for slot in view.store.slots if slot.shard.split == "train"]
        asked |= {"folds": config.folds, "seed": config.seed, "made_from": commits_digest(view, slots, output)}
        asked |= {} if config.l2 is None else {"l2": config.l2}
    else:
        asked["made_from"] = zero_shot_head(view, output, head.name, config.class_set).made_from
    differ = [fact for fact, value in asked.items() if getattr(head, fact) != value]
    if differ:
        raise StoreError(
            f"head '{head.name}' of {view.spec.name} is there already, with another {' and '.join(differ)}; "
            "give the new one another --name"
        )
    return head


def _result(view: TeacherView, head: Head, derived: TeacherView, losses: dict[float, float]) -> HeadResult:
    scores = score(derived)
    return HeadResult(
        store=view.store.storage.url,
        head=head.name,
        kind=head.kind,
        teacher=view.spec.name,
        output=head.output,
        derived=derived.spec.name,
        derived_id=derived.teacher_id,
        classes=head.classes,
        l2=head.l2,
        l2_losses={f"{l2:g}": loss for l2, loss in losses.items()},
        train_top1=scores["train"].top1,
        val_top1=scores["val"].top1,
        test_top1=scores["test"].top1,
        temperature=scores["val"].temperature,
    )
