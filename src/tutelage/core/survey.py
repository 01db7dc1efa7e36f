"""The published on-policy methods that a survey of the field lists, with their places on its three axes.

Whether a recipe of this package serves one is found by the paper's number, so no list of recipes is kept here; one that
none serves is named for reference only. Feedback and access are the survey's; granularity is read off the papers'
losses.

Source: arXiv:2604.00626.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import catalog
from .axes import check_axes, on


@dataclass(frozen=True)
class Published:
    """A method in the literature.

    Args:
        name: What its authors call it.
        arxiv: The paper's number.
        feedback: See ``core.axes``.
        access: To the teacher.
        granularity: At which its loss acts.
    """

    name: str
    arxiv: str
    feedback: str
    access: str
    granularity: str = "token"

    @property
    def tags(self) -> dict[str, str]:
        """Its place on each axis."""
        return {"feedback": self.feedback, "access": self.access, "granularity": self.granularity}

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes here that compose it; empty means that it is listed for reference only."""
        return tuple(n for n in catalog.names() if catalog.card(catalog.find(n)).paper == f"arXiv:{self.arxiv}")


def _of(feedback: str, access: str, granularity: str, text: str) -> tuple[Published, ...]:
    """Methods of one place: ``name 0000.00000`` with a comma between."""
    pairs = (entry.strip().rpartition(" ") for entry in text.split(","))
    return tuple(Published(name, arxiv, feedback, access, granularity) for name, _, arxiv in pairs)


PUBLISHED = (
    *_of("logit", "white-box", "token",
         "GKD 2306.13649, DistiLLM 2402.03898, DistiLLM-2 2503.07067, PromptKD 2402.12842, AKL 2404.02657, "
         "DSKD 2504.11426, Delta KD 2509.14526, ToDi 2505.16297, Constrained CMDP 2509.22921, "
         "Entropy-aware OPD 2603.07079, Fast OPD 2602.15260, PACED 2603.11178, X-KD 2602.12674, AdaSwitch 2510.07842, "
         "TAID 2501.16937, CSD 2509.25837, AdaKD 2510.11615, SelecTKD 2510.24021, REOPOLD 2603.11137, "
         "TSD-KD 2603.13260, DDT 2602.12222, G-OPD 2602.12125, Speculative KD 2410.11325, DistillSpec 2310.08461, "
         "ULD 2402.12030, Minitron 2407.14679, VOLD 2510.23497, Video-OPD 2602.02994, MiMo-V2-Flash 2601.02780, "
         "Qwen3 2505.09388, Nemotron-Cascade 2 2603.19220"),
    *_of("logit", "white-box", "hybrid", "MiniLLM 2306.08543"),
    *_of("logit", "white-box", "sequence", "DASD 2601.09088, MiniPLM 2410.17215"),
    *_of("outcome", "black-box", "sequence",
         "GAD 2511.10643, Lion 2305.12870, ORPO-Distill 2509.25100, DAIL 2602.02405"),
    *_of("self", "none", "sequence", "SPIN 2401.01335, TMS 2602.03073, HDPO 2603.23871"),
    *_of("self", "none", "token",
         "OPSD 2601.18734, OPSDC 2603.05433, GATES 2602.20574, SDPO 2601.20802, MTP self-distillation 2602.06019, "
         "OPCD 2602.12275, OEL 2603.16856, SDFT 2601.19897"),
    *_of("self", "none", "hybrid", "pi-Distill 2602.04942"),
    *_of("outcome", "white-box", "hybrid",
         "RLKD 2505.16142, RLAD 2602.22495, AlignDistil 2503.02832, KDRL 2506.02208, KEPO 2602.00400"),
    *_of("outcome", "black-box", "hybrid", "LUFFY 2504.14945, SuperCorrect 2410.09008, SCoRe 2509.14257"),
)  # fmt: skip


def published(wanted: Mapping[str, str] | None = None) -> tuple[Published, ...]:
    """The methods at some places on the axes; all by default.

    Raises:
        UnknownName: No such axis, or no such place on it.
    """
    check_axes(wanted or {})
    return tuple(method for method in PUBLISHED if on(method.tags, wanted or {}))
