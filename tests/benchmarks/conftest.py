"""The bench of methods and the run of all systems are code of their own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
