"""What the steps of a configuration take on Cloud TPUs: its model and the size of its data, planned and printed."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from diffrec_jax.mesh import parse_mesh
from diffrec_jax.planning import programs
from diffrec_jax.planning.programs import Cost, Shape
from experiments.running import source
from experiments.settings import cli
from experiments.settings.config import Config

# Users, items and interactions of the splits the paper used, as published; all three parts together.
PUBLISHED = {
    "amazon-book_clean": (108_822, 94_949, 3_146_256),
    "amazon-book_noisy": (108_822, 178_181, 3_146_256),
    "yelp_clean": (54_574, 34_395, 1_402_736),
    "yelp_noisy": (54_574, 77_405, 1_402_736),
    "ml-1m_clean": (5_949, 2_810, 571_531),
    "ml-1m_noisy": (5_949, 3_494, 571_531),
}
TOO_LARGE = "does not fit the memory of the chip"
TRAIN_SHARE, LONGEST = 0.7, 2_048  # assumed of them where the data is not here


def checked(topologies: Sequence[str]) -> Sequence[str]:
    """The topologies, all of them known; JAX is told to take no device that is here, since nothing runs.

    Raises:
      ValueError: for one that is unknown.
    """
    for topology in topologies:
        programs.generation_of(topology)
    jax.config.update("jax_platforms", "cpu")
    return topologies


def of_one(config: Config, topologies: Sequence[str], *, search: bool) -> int:
    """Print what one configuration takes on each topology, and if asked, the smallest one that it fits; exit code."""
    console = cli.console()
    model, (shape, where) = _model(config), _shape(config)
    model = _with_clusters(model, shape, config)
    console.print(
        f"{config.model_name} on {config.data.name}: {shape.n_users:,} users x {shape.n_items:,} items, "
        f"{shape.n_interactions:,} training interactions, longest history {shape.longest:,} ({where})",
        highlight=False,
    )
    for topology, devices in _taken(topologies):
        mesh = parse_mesh(config.machine.mesh, devices=devices)
        title = f"{topology}, {mesh.size} chip(s), mesh users:{mesh.shape['users']},items:{mesh.shape['items']}"
        costs = _costs(model, shape, config, mesh)
        if costs is None:
            console.print(f"{title}: {TOO_LARGE}", highlight=False)
        else:
            console.print(_table(title, costs, programs.generation_of(topology)))
        if search:
            console.print(_smallest(model, shape, config, topology), highlight=False)
    return 0


def _taken(topologies: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """The topologies that the compiler takes, with their devices; of the others it is said why they are left out.

    Raises:
      RefusedTopologyError: if it takes none of them.
    """
    refused = []
    for topology in topologies:
        try:
            devices = programs.devices_of(topology)
        except programs.RefusedTopologyError as error:
            refused.append(error)
            print(f"left out: {error}", file=sys.stderr)
            continue
        yield topology, devices
    if len(refused) == len(topologies):
        raise refused[0]


def _model(config: Config) -> Any:
    model = config.model.trained  # the rest is fitted on the host
    if model is None:
        raise ValueError(f"model={config.model_name} is computed in closed form, on the host: there is no step to plan")
    return model


def _with_clusters(model: Any, shape: Shape, config: Config) -> Any:
    """Latent models with clusters of equal size: the real ones are known to the run alone."""
    return model.with_clusters(np.arange(shape.n_items) % config.clusters.n_cate) if model.needs_clusters else model


def _shape(config: Config) -> tuple[Shape, str]:
    """The size of the data, and where it is from: the data itself, or what is published of it."""
    folders = (Path(config.data.dataset), Path(config.data.data_dir) / config.data.dataset)
    if config.data.data or config.data.dataset not in PUBLISHED or any(folder.is_dir() for folder in folders):
        train = source.load(config).train
        lengths = np.bincount(train.users, minlength=train.n_users)
        return Shape(train.n_users, train.n_items, len(train), int(np.max(lengths, initial=1))), "counted"
    users, items, interactions = PUBLISHED[config.data.dataset]
    return Shape(users, items, int(TRAIN_SHARE * interactions), LONGEST), "published; share and history assumed"


def _costs(model: Any, shape: Shape, config: Config, mesh: Any) -> dict[str, Cost] | None:
    """What each step takes; None if one of them does not fit the memory of the chip."""
    try:
        return {
            "training step": programs.train_cost(model, shape, config.fit, mesh),
            "scoring step": programs.score_cost(model, shape, config.fit.batch_size, mesh),
        }
    except Exception as error:  # whatever the compiler raises
        if not programs.is_too_large(error):
            raise
        return None


def _table(title: str, costs: dict[str, Cost], generation: programs.Generation) -> Table:
    table = Table(title=f"{title}; per chip, HBM {generation.hbm / 2**30:.0f} GiB")
    for column in ("", *costs):
        table.add_column(column, overflow="fold")
    rows = {
        "arguments": [_size(c.arguments) for c in costs.values()],
        "temporaries": [_size(c.temporaries) for c in costs.values()],
        "total": [f"{_size(c.total)}, {c.total / generation.hbm:.1%} of the HBM" for c in costs.values()],
        "FLOPs": [f"{c.flops / 1e9:,.2f} G, {c.products / 1e9:,.2f} G in products" for c in costs.values()],
        "bytes accessed": [_size(c.bytes_accessed) for c in costs.values()],
        "collectives": [_crossing(c) for c in costs.values()],
        "time bound": [f"{1e3 * c.seconds(generation):.2f} ms ({c.bound_by(generation)})" for c in costs.values()],
    }  # fmt: skip
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _smallest(model: Any, shape: Shape, config: Config, topology: str) -> str:
    """The smallest topology of the same generation whose chips hold the training and the scoring step."""
    name, skipped = topology.partition(":")[0], ""
    for size in programs.GENERATIONS[name].topologies:
        try:
            devices = programs.devices_of(f"{name}:{size}")
        except programs.RefusedTopologyError as error:
            skipped += f"\nnot looked at: {error.topology}, which the installed TPU compiler refuses ({error.reason})"
            continue
        items = 1
        while items <= len(devices):
            mesh = programs.mesh_of(devices, items=items)
            if _costs(model, shape, config, mesh) is not None:
                mesh_flag = f"--mesh=users:{len(devices) // items},items:{items}"
                return f"smallest {name} that fits: {name}:{size} with {mesh_flag}{skipped}"
            items *= 2
    return f"no {name} topology listed here fits: lower --batch_size, or use another generation{skipped}"


def of_all(topologies: Sequence[str], rest: Sequence[str]) -> int:
    """One line of Markdown per shipped flag file, topology and step."""
    taken = list(_taken(topologies))
    print("| flag file | topology | step | arguments | temporaries | HBM | GFLOP (products) | accessed | bound |")
    print("|---|---|---|---|---|---|---|---|---|")
    for file in sorted(cli.FLAG_FILES.glob("*.flags")):
        config = cli.parse(["tpu_plan", f"--flagfile={file}", *rest], usage="")
        if config.model.trained is None:
            continue
        shape, _ = _shape(config)
        model = _with_clusters(_model(config), shape, config)
        for topology, devices in taken:
            generation = programs.generation_of(topology)
            mesh = parse_mesh(config.machine.mesh, devices=devices)
            costs = _costs(model, shape, config, mesh)
            if costs is None:
                print(f"| `{file.name}` | {topology} | {TOO_LARGE} | | | | | | |", flush=True)
                continue
            for step, c in costs.items():
                cells = (
                    f"`{file.name}`", topology, step.split()[0], _size(c.arguments), _size(c.temporaries),
                    f"{c.total / generation.hbm:.1%}", f"{c.flops / 1e9:,.1f} ({c.products / 1e9:,.1f})",
                    _size(c.bytes_accessed), f"{1e3 * c.seconds(generation):.2f} ms, {c.bound_by(generation)}",
                )  # fmt: skip
                print("| " + " | ".join(cells) + " |", flush=True)
    return 0


def _crossing(cost: Cost) -> str:
    return ", ".join(f"{kind} {_size(count)}" for kind, count in cost.collectives.items()) or "none"


def _size(count: float) -> str:
    if count < 2**18:
        return f"{count / 2**10:.1f} KiB"
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
