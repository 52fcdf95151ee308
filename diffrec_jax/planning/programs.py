"""Training and scoring steps compiled for TPUs that are not here, and what they cost on each chip.

The ``libtpu`` wheel brings the compiler of Cloud TPUs; a topology such as ``v5e:2x4`` stands for the devices. What it
says of memory, FLOPs and bytes is what the real program would take. XLA counts the body of a loop once: a training
step is such a body, and the T reverse steps of scoring are added here.
"""

import dataclasses
import math
import os
import re
from collections import defaultdict
from typing import Any, cast

import jax
import jax.numpy as jnp
import jax.stages
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffrec_jax.data.rows import DeviceCSR, take_rows
from diffrec_jax.evaluation import mask_seen, top_k
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import Layout, batch_size_on, make_mesh, replicated
from diffrec_jax.models import Catalogue
from diffrec_jax.models.contract import Model, Params, Prepared, Sizes
from diffrec_jax.planning import no_tpu
from diffrec_jax.training import Trainer

MISSING = "planning for TPUs needs their compiler: pip install 'diffrec_jax[tpu]'"
NO_MACHINE = {**no_tpu.WORDS, "TF_CPP_MIN_LOG_LEVEL": "3"}
ALONE = {"1x1": {"chips_per_host_bounds": (1, 1, 1)}}  # a host is taken to have four chips unless this is said
LIST_LENGTH = 100  # of the scoring step


class RefusedTopologyError(ValueError):
    """The installed compiler does not take a topology."""

    def __init__(self, topology: str, reason: str) -> None:
        super().__init__(
            f"the installed TPU compiler refuses topology={topology} ({reason}): choose another one, or another libtpu"
        )
        self.topology, self.reason = topology, reason


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generation of Cloud TPU, per chip, as published by Google."""

    hbm: int  # bytes
    flops: float  # per second, of bfloat16 products; float32 ones take bfloat16 inputs by default
    bandwidth: float  # bytes per second, of the HBM
    topologies: tuple[str, ...]  # smallest first
    options: tuple[tuple[str, str], ...] = ()  # of the topology: two cores that act as one device


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")
_MEGACORE = (("chip_config_name", "megacore"),)
GENERATIONS = {
    "v4": Generation(32 * 2**30, 275e12, 1228e9, _CUBES, _MEGACORE),
    "v5e": Generation(16 * 2**30, 197e12, 819e9, _FLAT),
    "v5p": Generation(95 * 2**30, 459e12, 2765e9, _CUBES, _MEGACORE),
    "v6e": Generation(32 * 2**30, 918e12, 1640e9, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one program takes on each chip."""

    arguments: int  # bytes
    temporaries: int
    total: int  # both, results that are no arguments, and the program itself
    flops: float  # all of XLA's count
    products: float  # of the matrix products alone, counted in the traced program and divided by the chips
    bytes_accessed: float
    collectives: dict[str, int]  # bytes by kind

    def seconds(self, generation: Generation) -> float:
        """The time that the peak of the chip allows: of its products or of its memory, whichever takes longer."""
        return max(self.flops / generation.flops, self.bytes_accessed / generation.bandwidth)

    def bound_by(self, generation: Generation) -> str:
        """Which of the two it is."""
        return "products" if self.flops / generation.flops == self.seconds(generation) else "memory"


@dataclasses.dataclass(frozen=True)
class Shape:
    """What of the data decides the cost."""

    n_users: int
    n_items: int
    n_interactions: int  # of training
    longest: int  # history


def generation_of(topology: str) -> Generation:
    """The generation of ``v5e:2x4``.

    Raises:
      ValueError: for a topology that is not among the known ones.
    """
    name, _, shape = topology.partition(":")
    if name not in GENERATIONS or shape not in GENERATIONS[name].topologies:
        known = "; ".join(f"{name}:{{{','.join(g.topologies)}}}" for name, g in GENERATIONS.items())
        raise ValueError(f"topology={topology} is unknown: choose one of {known}")
    return GENERATIONS[name]


def devices_of(topology: str) -> list[jax.Device]:
    """One device per chip of a topology, none of which is here.

    Raises:
      ValueError: for an unknown topology, or without the compiler.
      RefusedTopologyError: for one that the compiler does not take.
    """
    options: dict[str, Any] = {**dict(generation_of(topology).options), **ALONE.get(topology.partition(":")[2], {})}
    for name, value in NO_MACHINE.items():
        os.environ.setdefault(name, value)
    try:
        import libtpu  # noqa: F401
        from jax.experimental import topologies

        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except (ImportError, NotImplementedError) as error:
        raise ValueError(f"{MISSING} ({error})") from None
    except RuntimeError as error:  # as versions of the compiler differ in what they take
        raise RefusedTopologyError(topology, (str(error).splitlines() or [type(error).__name__])[0]) from None
    return list(found.devices)


def train_cost(model: Model, shape: Shape, options: FitOptions, mesh: Mesh) -> Cost:
    """One step of training."""
    catalogue = Catalogue(n_items=shape.n_items, n_users=shape.n_users)
    batch = min(options.batch_size, shape.n_users)
    model = model.suited(Sizes(shape.n_users, shape.n_items, shape.n_interactions, batch))[0]
    return _cost(Trainer(model, catalogue, mesh, 0, options).trace(_csr(shape, mesh)), mesh)


def score_cost(model: Model, shape: Shape, batch_size: int, mesh: Mesh) -> Cost:
    """The lists of one batch of users, from their histories."""
    layout = Layout(mesh, model.item_axes)
    seen = model.shapes(Catalogue(n_items=shape.n_items, n_users=shape.n_users))
    seen_tables = jax.eval_shape(model.prepare, seen)
    batch = batch_size_on(mesh, batch_size)

    def lists(params: Params, tables: Prepared, csr: DeviceCSR, users: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = take_rows(csr, users, recency=model.recency, mesh=mesh)
        params, tables = layout.cut(params, seen), layout.cut(tables, seen_tables)
        scores = model.scores(params, rows, key=jax.random.key(0), tables=tables)
        return top_k(mask_seen(scores, take_rows(csr, users, mesh=mesh)), LIST_LENGTH, mesh=mesh)

    abstract = [layout.abstract(jax.eval_shape(layout.pad, tree)) for tree in (seen, seen_tables)]
    users = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=NamedSharding(mesh, P("users")))
    return _cost(jax.jit(lists).trace(*abstract, _csr(shape, mesh), users), mesh)


def mesh_of(devices: list[jax.Device], *, items: int) -> Mesh:
    """The mesh that spreads the catalogue over ``items`` of the devices and rows over the rest."""
    return make_mesh(items=items, devices=devices)


def is_too_large(error: Exception) -> bool:
    """Whether a program was refused because it does not fit the memory of the chip."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error)


def _csr(shape: Shape, mesh: Mesh) -> DeviceCSR:
    def numbers(n: int, dtype: type = jnp.int32) -> jax.Array:
        return cast(jax.Array, jax.ShapeDtypeStruct((n,), dtype, sharding=replicated(mesh)))

    return DeviceCSR(
        numbers(shape.n_users + 1),
        numbers(shape.n_interactions),
        None,
        shape.n_items,
        shape.longest,
        numbers(shape.n_items, jnp.float32),
    )


def _cost(traced: jax.stages.Traced, mesh: Mesh) -> Cost:
    program = traced.lower().compile()
    memory, count = program.memory_analysis(), program.cost_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    once, in_all = _products(traced.jaxpr.jaxpr, loops=False), _products(traced.jaxpr.jaxpr, loops=True)
    return Cost(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        total=held + results + memory.generated_code_size_in_bytes,
        flops=count["flops"] + (in_all - once) / mesh.shape["users"],
        products=in_all / mesh.size,
        bytes_accessed=count["bytes accessed"],
        collectives=_collectives(program.as_text()),
    )


def _collectives(text: str) -> dict[str, int]:
    """Bytes that cross between chips in a compiled program, by kind; of a loop, in one turn."""
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    found: dict[str, int] = defaultdict(int)
    for types, kind, start in re.findall(rf"= (.*?) ({kinds})(-start)?\(", text):
        sizes = [
            int(bits or 8) // 8 * math.prod(map(int, filter(None, dims.split(","))))
            for bits, dims in re.findall(r"(?:pred|[a-z]+)(\d*)\[([\d,]*)\]", types)
        ]
        found[kind] += max(sizes) if start and kind != "all-reduce" else sum(sizes)  # a start names what goes in too
    return dict(found)


def _products(jaxpr: Any, *, loops: bool) -> float:
    """FLOPs of the matrix products of a traced program; loops of known length count in full, or once."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
            continue
        turns = equation.params["length"] if loops and equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            inside = getattr(value, "jaxpr", value)
            if hasattr(inside, "eqns"):
                total += turns * _products(inside, loops=loops)
    return total
