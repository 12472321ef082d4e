"""The application: its commands, and how errors end it.

Exit codes: 0 done, 1 an error that the user can act on (one or two lines, no traceback), 2 usage.
"""

import os
import sys

import typer

from embedkd import __version__
from embedkd.cli.data import pack_command
from embedkd.cli.demo import demo_command
from embedkd.cli.evaluate import evaluate_command, report_command
from embedkd.cli.info import info_command
from embedkd.cli.losses import losses_command
from embedkd.cli.output import say
from embedkd.cli.store_operations import register
from embedkd.cli.stores import average_command, precompute_command, store_app
from embedkd.cli.students import export_command, students_command
from embedkd.cli.teachers import teachers_command
from embedkd.cli.train import train_command
from embedkd.cli.tuning import finetune_command, head_command
from embedkd.cli.verify import verify_command
from embedkd.errors import EmbedKDError, Interrupted

_TYPERS_CTRL_C = 130  # what typer makes of a KeyboardInterrupt that no stage has answered

app = typer.Typer(
    name="embedkd",
    help="Knowledge distillation from stored teacher embeddings: run the teacher once, train students many times.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"embedkd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of every command."""


app.command("demo")(demo_command)
app.command("pack")(pack_command)
app.command("precompute")(precompute_command)
app.command("average")(average_command)
app.command("head")(head_command)
app.command("finetune")(finetune_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("report")(report_command)
app.command("export")(export_command)
app.command("teachers")(teachers_command)
app.command("students")(students_command)
app.command("losses")(losses_command)
store_app.command("info")(info_command)
store_app.command("verify")(verify_command)
register(store_app)
app.add_typer(store_app, name="store")


def main() -> None:
    """Run the command line; ends the process with the command's exit code."""
    # OpenMP reads this once, when torch is imported; docs/decisions/0004 has the measurements.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        app()
    except EmbedKDError as error:
        word = "stopped" if isinstance(error, Interrupted) else "error"
        say(f"{word}: {error}".removeprefix("stopped: ") if word == "stopped" else f"error: {error}", err=True)
        sys.exit(1)
    except MemoryError:
        say("error: this takes more memory than there is; end other programs, or use a machine with more", err=True)
        sys.exit(1)
    except SystemExit as ended:
        if ended.code != _TYPERS_CTRL_C:
            raise
        say("stopped; the same command goes on from what is finished", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read the output (head, less) has left; leave without a second error from the interpreter's own flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
