"""``python -m embedkd``."""

from embedkd.cli import main

main()
