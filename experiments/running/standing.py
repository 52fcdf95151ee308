"""What a run folder is worth today: nothing yet, finished, finished but to be trained for longer, or out of date.

A finished run shows its result without reading its data, unless the files are not as they were (size, time of change);
then they are read and compared by their checksum.
"""

import dataclasses
from typing import Any

from diffrec_jax.data.splits import Split
from diffrec_jax.processes import is_writer
from experiments.running import fingerprints, source
from experiments.running.run_folder import RunFolder
from experiments.settings.config import Config


@dataclasses.dataclass(frozen=True)
class Standing:
    """What was found in a run folder."""

    result: dict[str, Any] | None = None  # to be shown; None: there is work to do
    remark: str = ""  # a sentence to be said with it


def standing(config: Config, folder: RunFolder) -> Standing:
    """What there is to do in the folder.

    Raises:
      ValueError: if it holds another configuration, a damaged record, or a result of other data than there are now.
    """
    result = folder.found(config)
    if result is None:
        return Standing()
    more = config.differences(folder.configuration())  # of what a run may take: found() refuses the rest
    if not more:
        return Standing(result, _remark_on_data(config, folder, result))
    listed = ", ".join(f"{name}: {there} there, {here} now" for name, (there, here) in more.items())
    ended = _why_no_further(config, result)
    if ended:
        return Standing(result, f"more was allowed ({listed}), but {ended}")
    return Standing(
        None, f"{folder.path} is finished, and more is allowed now ({listed}): it goes on from its last state"
    )


def _why_no_further(config: Config, result: dict[str, Any]) -> str:
    """Why training would not go on; empty if it would, or if only the time can tell."""
    done, best = result["epochs_run"], result["best_epoch"]
    if result["valid"] and done + 1 - best >= config.fit.patience:
        return (
            f"validation has not improved since epoch {best}, for --patience={config.fit.patience} epochs: a larger "
            "--patience would go on"
        )
    return (
        f"its {done} epochs are all of --epochs={config.fit.epochs}: say more --epochs"
        if done >= config.fit.epochs
        else ""
    )


def _remark_on_data(config: Config, folder: RunFolder, result: dict[str, Any]) -> str:
    """A sentence if it is not known whether the data are those of the result; empty if they are.

    Raises:
      ValueError: if they are not.
    """
    recorded, now = folder.recorded_data(), source.state_of_files(config)
    if now is None:
        return "its data are not where they were, so whether they have changed is not known"
    if recorded.get("files") == now:
        return ""
    if fingerprints.is_older(recorded.get("data", "")) and result.get("split") != "released":
        return (
            "it was made by an older version, from whose record it cannot be told whether the data have changed since"
        )
    split = source.load(config)
    if source.fingerprint(split) != recorded.get("data"):
        raise ValueError(
            f"{folder.path} is finished, on data that have changed since{_growth(recorded, split)}: its result, in "
            f"{folder.path / 'report.md'}, is of the data as they were; for a run on those of today choose another "
            "--workdir"
        )
    if is_writer():
        folder.remember_files(now)  # touched, but the same
    return ""


def _growth(recorded: dict[str, Any], split: Split) -> str:
    sizes = [len(part) for part in split]
    if "events" not in recorded or recorded["events"] == sizes:
        return ""
    return f" ({sum(recorded['events']):,} events then, {sum(sizes):,} now)"
