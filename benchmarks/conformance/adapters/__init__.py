"""One adapter a framework; a module is imported only when its framework is asked."""

NAMES = {
    "tutelage": "ours",
    "TRL DistillationTrainer": "trl_distillation",
    "TRL GKDTrainer": "trl_gkd",
    "Liger, chunked": "liger",
    "Liger, Triton": "liger",
    "DistillKit": "distillkit_",
}
