"""What the README shows is run: its Python blocks in order, and the names it mentions exist."""

import re
from pathlib import Path

import numpy as np
import pytest

from diffrec_jax.data import synthetic

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.long
def test_the_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = synthetic.generate(n_users=60, n_items=50, seed=0)
    lines = [f"u{u},sku{i},{t // 1_000_000}" for u, i, t in zip(log.users, log.items, log.times)]
    Path("events.csv").write_text("user,sku,ts\n" + "\n".join(lines) + "\n")
    scope: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert 0.0 < float(capsys.readouterr().out.split()[0]) < 1.0
    assert scope["restored"].shape == (4, 100) and int(scope["state"].step) == 1
    assert np.isfinite(float(scope["state"].loss_sum))


def test_every_flag_file_and_module_it_names_exists():
    flag_files = {p.name for p in (ROOT / "experiments" / "flags").glob("*.flags")}
    named = set(re.findall(r"(?<![\w/-])[\w-]+\.flags", README)) - {"best.flags"}  # which a search writes
    assert named <= flag_files, named - flag_files
    for module in set(re.findall(r"python -m (experiments[\w.]*)", README)):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
