"""Approximate likelihood matching: a teacher with another tokenizer."""

from ..core.errors import SettingError
from ..core.recipe import Recipe, Train, recipe
from ..core.signal import Read, Still, uniform
from ..core.term import Term, Update, kept, per_token
from ..data.source import Corpus
from ..signals.chunks import BinaryEvent, Last, MatchEvents, Opens, RunSum, Starts
from ..signals.match import Targets
from ..signals.parts import PartSum
from ..signals.readouts import LogProb
from ..voices.align import Aligned


@recipe(
    paper="arXiv:2503.20083",
    family="cross-tokenizer",
    formula="T KL(Bernoulli(p(chunk)^(1/T)) || Bernoulli(q(chunk)^(1/T))), a mean over chunks of text that both "
    "tokenizers can end",
    differs=(
        "The loss is T times the paper's, less its least value: the same minimum, and a size that T does not change.",
        "A token begins a new word if it starts with white space or is special; chunks are merged until that is "
        "likelier than merge_above, or until nothing follows.",
        "A chunk with a token that nothing predicts (the first of a row without BOS) is left out; the released code "
        "counts the rest of it.",
        "The debiasing tables of unigram statistics, the loss on hidden states and the balancing of losses by their "
        "gradients are left out.",
        "The student keeps its embeddings; the paper also moves models to other tokenizers with embeddings made anew.",
    ),
    axes={"writer": "data", "divergence": "binary KL of chunks", "gradient": "supervised"},
)
def alm(
    *, temperature: float = 100.0, merge_above: float = 0.1, label_share: float = 0.0, trains: str = "answer"
) -> Recipe:
    """Give each stretch of text the probability that the teacher gives it, whatever tokens either is made of.

    Args:
        temperature: Softens the two probabilities of a chunk, > 0; the paper's 100 keeps a gradient for long chunks.
        merge_above: Chunks are merged until the teacher finds that a new word begins there likelier than this, in
            [0, 1): it undoes part of the bias of tokens that end inside a word. 0 merges nothing, and needs of the
            teacher the log-probabilities of the observed tokens alone.
        label_share: Share of the cross-entropy with the data's own tokens, in [0, 1].
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        temperature -> infinity: the mean of (A - B) + A (log -B - log -A), A and B the chunk's log-probabilities.
        label_share=1: supervised.
    """
    if not 0 <= label_share <= 1 or not 0 <= merge_above < 1:
        raise SettingError(
            "alm",
            got=f"label_share={label_share}, merge_above={merge_above}",
            expected="label_share in [0, 1], merge_above in [0, 1)",
            remedy="0 leaves the labels out; 0 merges nothing.",
        )
    teacher = Aligned("teacher")
    read = Read("teacher", over=teacher.sees)
    q, p = PartSum(LogProb(), teacher.chunks), PartSum(LogProb(read), teacher.chunks)
    weight = uniform
    if merge_above:
        begins = Last(Read("teacher", through=(Opens("teacher"),), over=teacher.sees))
        weight = Starts(begins, teacher.chunks, merge_above)
        q, p = RunSum(q, Still(weight)), RunSum(p, weight)
    match = MatchEvents(BinaryEvent(temperature), q, p)
    terms = [Term("chunks", match, weight, 1 - label_share, kept(per_token) if merge_above else per_token)]
    if label_share:
        terms.append(Term("labels", Targets(), scale=label_share))
    source = Corpus("train", trains=trains)  # type: ignore[arg-type]
    return Recipe((Train("train", source, (Update(tuple(terms)),), voices={"teacher": teacher}),))
