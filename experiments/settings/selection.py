"""Which validation metric chooses an epoch, or a trial of a search: ``ndcg@10``, or ``standard:ndcg@10``."""

from diffrec_jax.evaluation.metrics import PROTOCOLS, Protocol, parse_metric
from diffrec_jax.fit_options import SELECTION

DEFAULT = SELECTION[1]  # of the official protocol


def parse(text: str) -> tuple[Protocol, str]:
    """Protocol (``official`` unless said) and metric.

    Raises:
      ValueError: if it is neither.
    """
    before, colon, name = text.rpartition(":")
    protocol = next((known for known in PROTOCOLS if known == (before if colon else "official")), None)
    if protocol is None:
        raise ValueError(f"select={text} names no protocol: say {' or '.join(PROTOCOLS)}, as in standard:ndcg@10")
    try:
        parse_metric(name)
    except ValueError as error:
        raise ValueError(f"select={text}: {error}") from None
    return protocol, name


def metric(text: str) -> str:
    """The metric alone."""
    return parse(text)[1]


def words(text: str) -> str:
    """What chose, for a reader."""
    protocol, name = parse(text)
    return f"validation {name}, {protocol} protocol"
