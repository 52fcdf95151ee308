"""What the README and the pages show is run: their Python blocks in order; the names they mention exist; widths."""

import re
from pathlib import Path

import numpy as np
import pytest

from diffrec_jax.data import synthetic

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
NO_FILES = {"best.flags", "FILE.flags", "NAME-ml-1m.flags"}  # what a search writes, and any file
GENERATED = ("results.md", "results-sequential.md")


@pytest.mark.long
def test_the_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = synthetic.generate(n_users=60, n_items=50, seed=0)
    lines = [f"u{u},sku{i},{t // 1_000_000}" for u, i, t in zip(log.users, log.items, log.times)]
    Path("events.csv").write_text("user,sku,ts\n" + "\n".join(lines) + "\n")
    scope: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README + PAGES["python.md"], re.S)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert 0.0 < float(capsys.readouterr().out.split()[0]) < 1.0
    assert scope["restored"].shape == (4, 100) and int(scope["state"].step) == 1
    assert np.isfinite(float(scope["state"].loss_sum))


def test_every_flag_file_and_module_they_name_exists():
    flag_files = {p.name for p in (ROOT / "experiments" / "flags").glob("*.flags")}
    for name, text in {"README.md": README, **PAGES}.items():
        named = set(re.findall(r"(?<![\w/-])[\w-]+\.flags", text)) - NO_FILES
        assert named <= flag_files, (name, named - flag_files)
        for module in set(re.findall(r"python -m (experiments[\w.]*)", text)):
            place = ROOT / module.rstrip(".").replace(".", "/")
            assert place.with_suffix(".py").is_file() or place.name == "NAME", (name, module)


def test_the_readme_is_short_and_leads_everywhere():
    assert len(README.splitlines()) <= 100
    missing = [name for name in PAGES if f"docs/{name}" not in README]
    assert missing == ["api.md", "index.md"]  # which the site has


def test_prose_is_at_most_120_characters_wide():
    for name, text in {"README.md": README, **PAGES}.items():
        code = False
        for number, line in enumerate(text.splitlines(), 1):
            code = code != line.startswith("```")
            if not code and not line.startswith("|") and name not in GENERATED:
                assert len(line) <= 120, f"{name}, line {number} is {len(line)} characters wide"
