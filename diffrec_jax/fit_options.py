"""How a model is trained by epochs: options that ``fit``, the loop, a search and the command line share."""

import dataclasses

from diffrec_jax.options import check, option

MOST_SCORES = 2**34  # of a validation that ranks everybody; beyond it a sample does
DTYPES = ("float32", "bfloat16")
SELECTION = ("official", "recall@20")  # protocol and metric of validation that choose the epoch
PRNG_IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of training; a model may have defaults of its own (``Model.fit_options``).

    ``patience`` is counted as the authors do: epoch e does not begin if the best one lies ``patience`` or more epochs
    before it. With ``ema_decay`` the average of the parameters is what is validated, kept as the best and served. With
    ``dtype="bfloat16"`` parameters, optimizer state, loss and ranking stay float32.
    """

    batch_size: int = option(400, "users per step", at_least=1)
    epochs: int = option(1000, "most epochs of training", at_least=1)
    eval_every: int = option(5, "epochs between validations, each followed by a checkpoint", at_least=1)
    patience: int = option(20, "epochs without better validation (by --select) before training ends", at_least=1)
    train_minutes: float = option(
        0.0,
        "minutes of training and validation: no epoch begins that would end after them; 0 is no limit",
        at_least=0.0,
        hint="15, say, or 0 for no limit",
    )
    valid_users: int = option(
        0,
        "users that validation ranks, drawn once; 0 is all of them, up to as many as make 17 billion scores",
        at_least=0,
        hint="20000, say, or 0 for all of them as far as that takes no hours",
    )
    ema_decay: float = option(
        0.0,
        "decay of a moving average of the parameters, which is then validated and served; 0 keeps none",
        at_least=0.0,
        below=1.0,
        hint="0 for none, or .99, say",
    )
    dtype: str = option("float32", "what training computes in; parameters and ranking are float32", choices=DTYPES)
    mu_dtype: str = option("float32", "what the first moments of the optimizer are kept in", choices=DTYPES, rare=True)
    prng_impl: str = option(
        "threefry2x32", "generator of the training noise; rbg is faster on TPU", choices=PRNG_IMPLS, rare=True
    )

    def __post_init__(self) -> None:
        check(self)

    def users_to_validate(self, n_users: int, n_items: int) -> int:
        """How many of ``n_users`` with held-out items validation ranks; 0 is all of them."""
        if self.valid_users:
            return self.valid_users
        most = max(MOST_SCORES // max(n_items, 1), 1_000)
        return 0 if n_users <= most else most
