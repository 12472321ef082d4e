"""The command line: parse, call one function, print. ``main`` is the console script."""

from embedkd.cli.app import main

__all__ = ["main"]
