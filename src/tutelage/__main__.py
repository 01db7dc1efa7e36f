"""``python -m tutelage``."""

from .cli.main import main

main()
