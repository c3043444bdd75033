"""`python -m extender.cli`."""

from extender.cli import main

main()
