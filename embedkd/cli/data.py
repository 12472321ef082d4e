"""``embedkd pack``."""

from pathlib import Path
from typing import Annotated

import typer

from embedkd.cli.output import say
from embedkd.cli.progress import watcher
from embedkd.records import SPLITS

_DEFAULT_ROWS = 10_000


def pack_command(
    source: Annotated[
        Path, typer.Argument(help="A folder of class folders, a CSV (path,label[,caption][,split]), a CIFAR .tar.gz.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the shards; must not exist or be empty.")],
    rows_per_shard: Annotated[int, typer.Option(help="Most samples in one tar.")] = _DEFAULT_ROWS,
    val: Annotated[float, typer.Option(help="Share for validation, where the source has no splits.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share for the test, where the source has no splits.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides the shuffle and the split.")] = 0,
) -> None:
    """Pack images into WebDataset shards with an index."""
    from embedkd.sources.pack import pack

    watch = watcher()
    packed = pack(
        *(source, out),
        rows_per_shard=rows_per_shard,
        val=val,
        test=test,
        seed=seed,
        on_shard=lambda shard: watch.line(f"{shard.url}: {shard.rows} samples, {shard.size_bytes / 2**20:.1f} MiB"),
    )
    counts = ", ".join(f"{packed.rows(split)} {split}" for split in SPLITS if packed.rows(split))
    say(f"{out}: {len(packed.shards)} shards, {len(packed.classes)} classes, {counts}")
    if packed.ignored:
        say(f"  {packed.ignored} files are no images and were left out")
    say(f"next: embedkd precompute --teacher packaged:efficientnet-lite0 --data {out}")
