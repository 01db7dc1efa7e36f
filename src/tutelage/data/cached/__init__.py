"""Teacher caches: what a teacher said, written once and read many times."""

from .answer import answer
from .drawn import Drawn
from .form import Form
from .forms import FORMS, form_of
from .plain import Dense, Exact, States, Target
from .store import Asked, Cache, opened, teacher_key
from .top import Top

__all__ = [
    "FORMS",
    "Asked",
    "Cache",
    "Dense",
    "Drawn",
    "Exact",
    "Form",
    "States",
    "Target",
    "Top",
    "answer",
    "form_of",
    "opened",
    "teacher_key",
]
