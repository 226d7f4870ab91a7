"""`python -m recsys`, for launchers that start a module: the same as the command `recsys`."""

from recsys.cli import main

main()
