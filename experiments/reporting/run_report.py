"""``report.md`` and ``report.html`` of a run folder: its table, its curves, and whom it serves how well."""

import base64
import dataclasses
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from diffrec_jax.evaluation import BEYOND, PROTOCOLS
from diffrec_jax.evaluation.conventions import UNMASKED
from diffrec_jax.files import write_atomically
from diffrec_jax.memory import peak_text
from experiments.reporting import evidence, groups, pictures, rankings, segments, systems
from experiments.reporting.published import columns, published
from experiments.reporting.sheet import Sheet
from experiments.reporting.systems import Run, System, shared_list_length
from experiments.reporting.table import TITLES
from experiments.settings import selection
from experiments.settings.commands import command

NO_PICTURES = (
    "Pictures need matplotlib: `pip install -e '.[report]'`, then `python -m experiments.report` on this folder."
)
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1.5em 0;font-size:14px}caption{text-align:left;font-weight:600;padding:.3em 0}
th,td{padding:.25em .8em .25em 0;border-bottom:1px solid #ddd;text-align:left}.n{text-align:right;white-space:nowrap;
font-variant-numeric:tabular-nums}img{width:100%}figure{margin:1.5em 0}figcaption,.note{color:#555;font-size:13px}
pre{background:#f4f4f4;padding:.7em;white-space:pre-wrap}"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An SVG, the name of its file, and what it shows."""

    name: str
    caption: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What both files say."""

    title: str
    facts: tuple[str, ...]
    command: str
    sheets: tuple[Sheet, ...]
    pictures: tuple[Picture, ...]

    def write(self, folder: Path) -> None:
        """``report.md`` with ``pictures/*.svg`` beside it, and ``report.html``, which needs nothing else."""
        if self.pictures:
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
        for picture in self.pictures:
            write_atomically(folder / "pictures" / f"{picture.name}.svg", picture.svg)
        write_atomically(folder / "report.md", self.markdown())
        write_atomically(folder / "report.html", self.html())

    def markdown(self) -> str:
        """The text of ``report.md``."""
        parts = [f"# {self.title}", "\n".join(f"- {fact}" for fact in self.facts), f"```\n{self.command}\n```"]
        parts += [sheet.markdown().rstrip() for sheet in self.sheets]
        parts += [f"![{p.caption}](pictures/{p.name}.svg)\n\n{p.caption}" for p in self.pictures]
        return "\n\n".join(parts + ([] if self.pictures else [NO_PICTURES])) + "\n"

    def html(self) -> str:
        """The text of ``report.html``."""
        figures = []
        for picture in self.pictures:
            source = base64.b64encode(picture.svg.encode()).decode()
            caption = html.escape(picture.caption)
            image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{source}">'
            figures.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
        facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in self.facts)
        body = [f"<h1>{html.escape(self.title)}</h1><ul>{facts}</ul><pre>{html.escape(self.command)}</pre>"]
        body += [sheet.html() for sheet in self.sheets]
        body += figures or [f"<p class=note>{html.escape(NO_PICTURES)}</p>"]
        head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        title = f"<title>{html.escape(self.title)}</title>"
        return f"<!doctype html><html lang=en><head>{head}{title}</head><body>{''.join(body)}</body></html>\n"


def of_run(folder: Path, *, console: Console | None = None) -> None:
    """Write the report of a finished run; a folder that cannot be written costs a warning, not the run."""
    run = systems.read(folder)
    try:
        build(run).write(folder)
    except OSError as error:
        if console is not None:
            console.print(f"warning: no report written ({error.strerror or error})", highlight=False)
        return
    if console is not None:
        console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def build(run: Run) -> Report:
    """The report of one run."""
    if not run.config:
        of_lists = "lists of somebody else: they are seen in a comparison"
        of_baseline = "a baseline: its report is that of the run it lies in"
        raise ValueError(f"{run.path} holds {of_lists if 'lists' in run.result else of_baseline}")
    result, title = run.result, TITLES.get(run.result["model"], run.result["model"])
    noise = f" with noise {result['noise']}" if result.get("noise") else ""
    seconds = result["seconds"]
    facts = [
        f"{result['dataset']}{noise}, split: {result['split']}, test history: {result['eval_history']}, seed "
        f"{result['seed']}",
        f"best epoch {result['best_epoch']} of {result['epochs_run']}, chosen by {selection.words(run.select)}"
        if result["epochs_run"]
        else "fitted in one go",
        f"{result['parameters']:,} parameters; {seconds['train']:,.1f} s training, {seconds['evaluate']:,.1f} s "
        f"evaluation, {seconds['total']:,.1f} s in all; peak host memory {peak_text(result['peak_host_bytes'])}",
        *result.get("notes", []),
    ]
    kept = [systems.read(path.parent) for path in sorted(run.path.glob("baselines/*/result.json"))]
    kept = [baseline for baseline in kept if baseline.result["model"] != result["model"]]
    alone = System(title, (run,))
    baselines = [System(TITLES.get(b.result["model"], b.result["model"]), (b,)) for b in kept]
    by_user_group = (segments.sheet(result),) if "segments" in result else ()
    ranked = [rankings.sheet(result, TITLES, protocol=p) for p in PROTOCOLS] if result.get("rankings") else []
    sheets = (_quality(result), *ranked, *by_user_group, *(_beyond([alone, *baselines]) if "beyond" in result else ()))
    return Report(
        f"{title} on {result['dataset']}",
        tuple(facts),
        command(run.config, [result["seed"]]),
        sheets,
        _pictures(run, [alone, *baselines]),
    )


def _quality(result: dict[str, Any]) -> Sheet:
    title = TITLES.get(result["model"], result["model"])
    paper = published(result["model"], result["dataset"])
    comparable = (result.get("split"), result.get("noise"), result.get("eval_history")) == ("released", "", "train")
    shown = columns(*(test["official"] for test in (result["test"], *result["baselines"].values())))
    rows = []
    for protocol in PROTOCOLS:
        named = {f"{title}, this run": result["test"][protocol]}
        if paper is not None and comparable and protocol == "official":
            named[f"{title}, published"] = paper
        others = {name: metrics for name, metrics in result["baselines"].items() if name != result["model"]}
        named |= {TITLES.get(name, name): metrics[protocol] for name, metrics in others.items()}
        for name, metrics in named.items():
            rows.append((name, protocol, *(f"{metrics[c]:.4f}" if c in metrics else "-" for c in shown)))
    note = "official: mean over all users; standard: mean over users with held-out items."
    title = "Test, unmasked" if result.get("ranking") == UNMASKED else "Test"
    return Sheet(title, ("model", "protocol", *shown), tuple(rows), note=note, n_text=2)


def _beyond(among: Sequence[System]) -> tuple[Sheet, ...]:
    k = shared_list_length(among)
    rows = tuple((s.name, *(f"{s.median('beyond', f'{name}@{k}'):.3f}" for name in BEYOND)) for s in among)
    note = f"Of lists of {k}: items listed, inequality of their counts, share of popular ones, novelty in bits."
    return (Sheet("Beyond accuracy", ("model", *(f"{name}@{k}" for name in BEYOND)), rows, note=note),)


def _pictures(run: Run, among: Sequence[System]) -> tuple[Picture, ...]:
    if not pictures.available():
        return ()
    found = []
    lines = _lines(run.path)
    if lines:
        caption = "Training loss, and what validation said of it; the dotted line is the epoch that was kept."
        svg = pictures.curves(lines, run.result["best_epoch"], selection.metric(run.select))
        found.append(Picture("curves", caption, svg))
    drawn = [line for line in lines if len(line.get("importance") or []) > 1]
    if drawn:
        caption = "Importance sampling: how often training drew each diffusion step, against drawing them uniformly."
        probabilities = np.array([line["importance"] for line in drawn])
        svg = pictures.importance([line["epoch"] for line in drawn], probabilities)
        found.append(Picture("importance", caption, svg))
    return (*found, *by_group(among))


def by_group(among: Sequence[System]) -> tuple[Picture, ...]:
    """Quality by history length and by popularity, where the evidence for it is kept."""
    if not all((run.path / evidence.PER_USER).is_file() for system in among for run in system.runs):
        return ()
    k = shared_list_length(among)
    history, popularity = groups.by_history(among, f"recall@{k}"), groups.by_popularity(among, k)
    caption = (
        f"Left: recall@{k} of users by length of their history (groups of about equally many users). Right: share of "
        f"held-out interactions found in the top {k}, by popularity of the item (groups of about equally many)."
    )
    svg = pictures.grouped(
        (history, "interactions in the history", f"recall@{k}"),
        (popularity, "training users of the item", f"found in the top {k}"),
    )
    return (Picture("groups", caption, svg),)


def _lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
