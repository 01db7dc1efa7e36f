"""Distillation that flattens and blurs what is private."""

import math

from ..core.errors import SettingError
from ..core.recipe import Recipe, recipe
from ..core.signal import Constant, Noted, Read
from ..core.term import Term
from ..signals.apply import Apply
from ..signals.divergences import kl_forward
from ..signals.logits import AtTemperature
from ..signals.match import Match, Targets
from ..signals.picks import Below
from ..signals.private import KeyedNoise, Marked
from . import base

CONTACTS = r"[\w.+-]+@[\w-]+\.[\w.]+|\+?\d[\d ().-]{5,}\d"


@recipe(
    paper="arXiv:2212.08349",
    family="objective",
    formula="T0^2 KL(noisy softmax(z_p / T) || softmax(z_q / T0)) + label_scale CE where public, "
    "T = T0 (Tmax / T0)^s, s how private the token is",
    differs=(
        "Temperature map, noise and the factor T0^2 are reconstructed: of the paper the abstract was read.",
        "How private a token is comes from a pattern or from marks on the data, 0 or 1 or between; the scores from a "
        "named-entity model or from memorisation are notes that a step of one's own may write.",
        "No guarantee of differential privacy: exposure of planted secrets is what is measured.",
    ),
    axes={"writer": "data", "divergence": "forward KL to a flattened teacher", "gradient": "supervised"},
)
def swing_distillation(
    *,
    private: str = "",
    pattern: str = CONTACTS,
    temperature: float = 2.0,
    most_temperature: float = 100.0,
    noise: float = 0.1,
    key: str = "tutelage",
    label_scale: float = 0.0,
    trains: str = "answer",
) -> Recipe:
    """Follow the teacher at ordinary tokens; at private ones follow a flat target with noise fixed by the context.

    Args:
        private: The name of a note a token in [0, 1] that says how private it is; empty marks what `pattern` finds.
        pattern: A regular expression; its default finds addresses of mail and long numbers.
        temperature: Of ordinary tokens' targets and of the student everywhere, > 0.
        most_temperature: Of the targets of wholly private tokens, >= temperature.
        noise: Standard deviation of the half-normal noise at wholly private tokens, in probability, >= 0; a flat target
            alone keeps the teacher's ranking, and so its secret.
        key: What the noise is drawn from besides the context; keep it secret, and the same over a run.
        label_scale: Weight of the data's own tokens, >= 0, where a token is less than half private.
        trains: `answer` trains the answers, `all` the prompts' text as well.

    Limits:
        nothing private: forward_kl with the same temperature.
    """
    if not 0 < temperature <= most_temperature or noise < 0 or label_scale < 0:
        raise SettingError(
            "swing_distillation",
            got=f"temperature={temperature} to {most_temperature}, noise={noise}, label_scale={label_scale}",
            expected="0 < temperature <= most_temperature, noise >= 0 and label_scale >= 0",
            remedy="2, 100, 0.1 and 0 are usual.",
        )
    score = Noted(private) if private else Marked(pattern)
    by = temperature * Apply("exp", math.log(most_temperature / temperature) * score)
    target = (AtTemperature(by), *((KeyedNoise(score, noise, key),) if noise else ()))
    own = Read("student", through=(AtTemperature(Constant(temperature)),))
    match = Match(kl_forward, own, Read("teacher", through=target))
    terms = [Term("swing", match, scale=temperature**2)]
    if label_scale:
        terms.append(Term("labels", Targets(), weight=Below(score, 0.5), scale=label_scale))
    return base.offline(*terms, trains=trains)
