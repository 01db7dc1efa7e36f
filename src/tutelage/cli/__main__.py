"""``python -m tutelage.cli``."""

from .main import main

main()
