"""Metrics by user group: from a table of users and groups, and from what a run keeps of every user.

A group's number is the mean over its users with held-out items (the ``standard`` convention). Users whom the table does
not name are a group of their own; nobody is in two groups.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.reporting import evidence, given_tables
from experiments.reporting.published import columns
from experiments.reporting.sheet import Sheet
from experiments.reporting.systems import System
from experiments.reporting.table import TITLES

NOBODYS = "(no group)"
USUAL = {"user": ("user", "user_id", "userid"), "group": ("group", "segment", "cohort")}
AT_MOST = 50  # groups; more are no groups but, most likely, another column


@dataclasses.dataclass(frozen=True)
class Groups:
    """Who is in which group.

    Attributes:
      users: ids as text, each once.
      groups: the group of each of them.
      source: the name of the file.
    """

    users: pa.Array
    groups: pa.Array
    source: str

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The group ``[n]`` of each of these users, as text; ``NOBODYS`` where the table says nothing."""
        place = pc.index_in(_text(pa.array(ids)), value_set=self.users)
        return np.asarray(pc.fill_null(self.groups.take(place), NOBODYS).to_numpy(zero_copy_only=False), dtype=object)


def read(path: str | Path) -> Groups:
    """A table with the columns ``user`` and ``group``.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if it cannot be read, lacks a column, names a user in two groups, or holds too many groups.
    """
    where = f"segments={path}"
    found = given_tables.columns(given_tables.read(path, "segments"), {"user": "", "group": ""}, USUAL, where)
    for role in USUAL:
        if role not in found:
            raise ValueError(f"{where} has no column {role!r}: a table of user groups has the columns user and group")
    try:
        users, groups = (_text(found[role].combine_chunks()) for role in ("user", "group"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        kinds = " and ".join(str(found[role].type) for role in USUAL)
        raise ValueError(
            f"{where} holds columns of {kinds}, which cannot be read as ids and groups ({error}): write both as text"
        ) from None
    whole = pc.and_(pc.is_valid(users), pc.is_valid(groups))
    pairs = pa.table({"user": users.filter(whole), "group": groups.filter(whole)}).group_by(["user", "group"])
    table = pairs.aggregate([])
    users, groups = (table[role].combine_chunks() for role in ("user", "group"))
    twice = pc.value_counts(users)
    twice = twice.field("values").filter(pc.greater(twice.field("counts"), 1))
    if len(twice):
        raise ValueError(f"{where} names the user {twice[0].as_py()!r} in two groups: leave one of them")
    count = pc.count_distinct(groups).as_py()
    if count > AT_MOST:
        raise ValueError(f"{where} holds {count:,} groups, and {AT_MOST} are shown at most: put them into fewer")
    if not count:
        raise ValueError(f"{where} names no user with a group: fill it, or drop --segments")
    return Groups(users, groups, Path(path).name)


def check(groups: Groups, ids: np.ndarray) -> None:
    """Refuse a table that names none of these users.

    Raises:
      ValueError: if so, with an id of either side.
    """
    if np.all(groups.of(ids) == NOBODYS):
        raise ValueError(
            f"{groups.source} names none of the users of this data ({groups.users[0].as_py()!r} there, "
            f"{str(ids[0])!r} here): its column user must hold the ids of the log"
        )


def added(result: dict[str, Any], groups: Groups, folder: Any) -> dict[str, Any]:
    """The content of ``result.json`` with what it says of groups.

    Args:
      result: of a run.
      groups: who is in which.
      folder: of the run, with what it and its baselines keep of every user.

    Returns:
      The result with ``segments``: ``{"source": …, "unknown_users": …, "groups": {group: {"users": …, "test":
      {metric: …}, "baselines": {name: {metric: …}}}}}``, where users are those with held-out items.

    Raises:
      ValueError: if the table names none of the users, or the evidence is missing.
    """
    columns_of = evidence.read(folder, evidence.PER_USER)
    check(groups, columns_of["user"])
    names, group = np.unique(groups.of(columns_of["user"]), return_inverse=True)
    sizes = np.bincount(group, minlength=len(names))
    ours = _means(columns_of, group, sizes)
    theirs = {}
    for file in sorted(folder.glob("baselines/*/result.json")):
        name = json.loads(file.read_text())["model"]
        if name in result["baselines"]:
            theirs[name] = _means(evidence.read(file.parent, evidence.PER_USER), group, sizes)
    unknown = len(groups.users) - int(np.sum(sizes[names != NOBODYS]))
    found = {
        str(name): {
            "users": int(sizes[g]),
            "test": {metric: float(values[g]) for metric, values in ours.items()},
            "baselines": {n: {m: float(values[g]) for m, values in means.items()} for n, means in theirs.items()},
        }
        for g, name in enumerate(names)
    }
    return {**result, "segments": {"source": groups.source, "unknown_users": unknown, "groups": found}}


def sheet(result: Mapping[str, Any]) -> Sheet:
    """The groups of a result as a table: this run, and its baselines, in every group."""
    said, title = result["segments"], TITLES.get(result["model"], result["model"])
    parts = said["groups"].values()
    shown = columns(*(row for part in parts for row in (part["test"], *part["baselines"].values())))
    rows = []
    for name, part in said["groups"].items():
        for model, metrics in {title: part["test"], **part["baselines"]}.items():
            rows.append((name, f"{part['users']:,}", TITLES.get(model, model), *(f"{metrics[c]:.4f}" for c in shown)))
    note = f"Means over users with held-out items (standard convention); groups of {said['source']}."
    if said["unknown_users"]:
        note += f" {said['unknown_users']:,} users of that file have no held-out items here."
    return Sheet("Test by user group", ("group", "users", "model", *shown), tuple(rows), note=note, n_text=3)


def compared(groups: Groups, among: Sequence[System], metrics: Sequence[str]) -> Sheet:
    """Systems side by side in every group, over the mean of their seeds."""
    rows = []
    names, sizes = np.zeros(0, object), np.zeros(0, int)
    for system in among:
        runs = [evidence.read(run.path, evidence.PER_USER) for run in system.runs]
        names, group = np.unique(groups.of(runs[0]["user"]), return_inverse=True)
        sizes = np.bincount(group, minlength=len(names))
        means = [_means(run, group, sizes) for run in runs]
        for metric in metrics:
            values = np.mean([mean[metric] for mean in means], axis=0)
            rows.append((system.name, metric, *(f"{value:.4f}" for value in values)))
    heads = tuple(f"{name}, {size:,} users" for name, size in zip(names, sizes))
    note = f"Means over users with held-out items (standard convention); groups of {groups.source}."
    return Sheet("By user group", ("model", "metric", *heads), tuple(rows), note=note, n_text=2)


def _means(columns_of: Mapping[str, np.ndarray], group: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of every metric in every group, [G]."""
    metrics = {name: values for name, values in columns_of.items() if "@" in name}
    sums = {name: np.bincount(group, values.astype(np.float64), len(sizes)) for name, values in metrics.items()}
    return {name: total / np.maximum(sizes, 1) for name, total in sums.items()}


def _text(ids: pa.Array) -> pa.Array:
    """Ids as they are written; whole numbers that came as floats, as data frames make them, without the point."""
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if pa.types.is_floating(ids.type):
        ids = pc.if_else(pc.is_nan(ids), None, ids)
        whole = pc.all(pc.equal(ids, pc.floor(ids))).as_py() is not False
        ids = ids.cast(pa.int64()) if whole else ids
    return pc.utf8_trim_whitespace(ids.cast(pa.string()))
