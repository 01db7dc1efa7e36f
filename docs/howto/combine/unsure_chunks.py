"""ALM's chunks of text under another tokenizer, weighed by how unsure the student is in them."""

from tutelage.core.recipe import Recipe, Train, recipe
from tutelage.core.signal import Read
from tutelage.core.term import Term, Update, per_token, weighted
from tutelage.data.source import Corpus
from tutelage.signals.chunks import BinaryEvent, MatchEvents
from tutelage.signals.parts import PartMean, PartSum
from tutelage.signals.readouts import Entropy, LogProb
from tutelage.voices.align import Aligned


@recipe(paper="none", family="mine", formula="ALM's divergence of chunks, weighed by the student's mean entropy")
def unsure_chunks(*, temperature: float = 100.0) -> Recipe:
    """Give each stretch of text the teacher's probability, above all where the student is unsure."""
    teacher = Aligned("teacher")
    q = PartSum(LogProb(), teacher.chunks)
    p = PartSum(LogProb(Read("teacher", over=teacher.sees)), teacher.chunks)
    unsure = PartMean(Entropy(), teacher.chunks)
    term = Term("chunks", MatchEvents(BinaryEvent(temperature), q, p), weight=unsure, per=weighted(per_token))
    return Recipe((Train("train", Corpus("train"), (Update((term,)),), voices={"teacher": teacher}),))
