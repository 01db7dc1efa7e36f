"""The suite is a benchmark; its checks of ourselves are tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
