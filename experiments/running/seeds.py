"""One configuration with several seeds: one run folder each, and the mean at the end."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from experiments.reporting import systems
from experiments.reporting.published import columns
from experiments.settings.config import Config


def each(config: Config) -> list[Config]:
    """A configuration for each seed; ``--workdir=runs/a`` becomes ``runs/a-s0``, ``runs/a-s1`` and so on."""
    numbers = range(config.run.seed, config.run.seed + config.run.seeds)
    folder = config.run.workdir.rstrip("/")
    return [config.changed(seed=n, seeds=1, workdir=f"{folder}-s{n}") for n in numbers]


def run_each(config: Config, run: Callable[[Config, Console], int], console: Console) -> int:
    """Run every seed (a finished one only shows its result), then show mean and deviation; the exit code."""
    configs = each(config)
    for one in configs:
        console.print(f"\nseed {one.run.seed}", style="bold", highlight=False)
        code = run(one, console)
        if code:
            console.print("the same command goes on with this seed, and those after it")
            return code
    (system,) = systems.group([systems.read(one.run.workdir) for one in configs])
    first, last = configs[0].run.seed, configs[-1].run.seed
    protocol = config.evaluation.protocol
    table = Table(
        title=f"{system.name} on {system.runs[0].result['dataset']}, test, {protocol} protocol: mean ± standard "
        f"deviation over seeds {first}-{last}",
        title_justify="left",
        title_style="bold",
    )
    shown = columns(*(done.result["test"][protocol] for done in system.runs))
    for column in ("seed", *shown, "best epoch"):
        table.add_column(column, justify="right")
    for result in (done.result for done in system.runs):
        metrics = result["test"][protocol]
        table.add_row(str(result["seed"]), *(f"{metrics[c]:.4f}" for c in shown), str(result["best_epoch"]))
    table.add_section()
    means = [(system.mean(protocol, c), system.deviation(protocol, c)) for c in shown]
    table.add_row("mean", *(f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in means), "", style="bold")
    console.print()
    console.print(table)
    return 0
