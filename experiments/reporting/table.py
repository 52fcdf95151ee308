"""The table at the end of a run: this run beside the published number and the baselines, protocol named."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from diffrec_jax.evaluation import BEYOND
from diffrec_jax.evaluation.conventions import UNMASKED
from diffrec_jax.memory import peak_text
from diffrec_jax.models.registry import MODELS
from experiments.reporting import rankings
from experiments.reporting.published import columns, list_length, published

TITLES = {name: entry.title for name, entry in MODELS.items()}


def show(result: dict[str, Any], *, protocol: str, console: Console | None = None) -> None:
    """Print the result of a run, given as in ``result.json``."""
    model, dataset = result["model"], result["dataset"]
    noise = f" with noise {result['noise']}" if result.get("noise") else ""
    unmasked = ", unmasked" if result.get("ranking") == UNMASKED else ""
    title = f"{dataset}{noise}, test{unmasked}, {protocol} protocol ({_meaning(protocol)})"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("model")
    tested = [result["test"][protocol], *(metrics[protocol] for metrics in result["baselines"].values())]
    shown = columns(*tested)
    for column in shown:
        table.add_column(column, justify="right")
    title = f"{TITLES.get(model, model)}, this run, seed {result['seed']}"
    table.add_row(title, *_cells(result["test"][protocol], shown), style="bold")
    paper = published(model, dataset)
    comparable = (result.get("split"), result.get("noise"), result.get("eval_history")) == ("released", "", "train")
    if paper is not None and comparable:
        note = "" if protocol == "official" else " (official)"
        table.add_row(f"{TITLES.get(model, model)}, published{note}", *_cells(paper, shown))
    for name, metrics in result["baselines"].items():
        table.add_row(TITLES.get(name, name), *_cells(metrics[protocol], shown))
    console = Console(width=110, soft_wrap=True) if console is None else console
    console.print()
    console.print(table)
    if result.get("rankings"):
        console.print(rankings.sheet(result, TITLES, protocol=protocol).drawn())
    for sentence in result.get("notes", []):
        console.print(sentence, highlight=False)
    k = list_length(*tested)
    beyond = {name: result.get("beyond", {}).get(f"{name}@{k}") for name in BEYOND}
    if None not in beyond.values():
        console.print(
            f"lists of {k}: coverage {beyond['coverage']:.3f}, Gini {beyond['gini']:.3f}, popularity share "
            f"{beyond['popularity_share']:.3f}, novelty {beyond['novelty']:.2f} bits",
            highlight=False,
        )
    seconds = result["seconds"]
    epochs = f"best epoch {result['best_epoch']} of {result['epochs_run']}" if result["epochs_run"] else "no epochs"
    console.print(
        f"{epochs}, {result['parameters']:,} parameters; seconds: "
        f"{seconds['train']:.1f} training, {seconds['evaluate']:.1f} evaluation, {seconds['compile']:.1f} compilation, "
        f"{seconds['total']:.1f} in all; peak host memory {peak_text(result['peak_host_bytes'])}",
        highlight=False,
    )


def _meaning(protocol: str) -> str:
    return "mean over all users" if protocol == "official" else "mean over users with held-out items"


def _cells(metrics: dict[str, float], shown: Sequence[str]) -> list[str]:
    return [f"{metrics[column]:.4f}" if column in metrics else "-" for column in shown]
