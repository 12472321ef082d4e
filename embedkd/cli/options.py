"""Flags that several commands share, each said once."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str | None,
    typer.Option(
        help="Shards: a folder, a glob, a pattern such as 'train-{000000..000007}.tar', any of these behind s3://, "
        "gs:// or https://, or data:clipart."
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with every setting; flags change it.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated.")
]
StorePath = Annotated[str, typer.Argument(metavar="STORE", help="The embedding store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
