"""SASRec in PyTorch, as a careful engineer writes it: what the benchmark of sequential models compares with.

The block is that of ``models.sasrec`` with ``norm="original"`` and an output projection. Histories are padded on the
right, so that the causal mask alone keeps padding out; a batch is as long as its longest history; attention is the
fused one; only positions with a next event meet the catalogue.
"""

import time
from typing import Any

import numpy as np


class SASRec:
    """Parameters, and an epoch of Adam over shuffled batches."""

    def __init__(self, *, n_items: int, length: int, width: int, blocks: int, heads: int, dropout: float) -> None:
        import torch

        self.torch, self.functional = torch, torch.nn.functional
        self.length, self.width, self.blocks, self.heads, self.dropout = length, width, blocks, heads, dropout
        self.n_items = n_items
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, std: float = 0.02) -> Any:
            return (std * torch.randn(*shape, generator=generator)).requires_grad_()

        def constant(value: float, *shape: int) -> Any:
            return torch.full(shape, value).requires_grad_()

        self.items, self.positions = normal(n_items, width), normal(length, width)
        self.layers = [
            {
                **{name: normal(width, width, std=width**-0.5) for name in ("q", "k", "v", "out", "up", "down")},
                **{f"{name}_bias": constant(0.0, width) for name in ("q", "k", "v", "out", "up", "down")},
                **{f"{name}_scale": constant(1.0, width) for name in ("first", "second")},
                **{f"{name}_shift": constant(0.0, width) for name in ("first", "second")},
            }
            for _ in range(blocks)
        ]
        self.last = {"scale": constant(1.0, width), "shift": constant(0.0, width)}
        leaves = [self.items, self.positions, *self.last.values()]
        leaves += [leaf for layer in self.layers for leaf in layer.values()]
        self.optimizer = torch.optim.Adam(leaves, lr=1e-3, betas=(0.9, 0.98), foreach=True)

    def features(self, items: Any, real: Any) -> Any:
        """``[B, L, D]`` of ``items [B, L]``, right padded."""
        f, (n, length), heads = self.functional, items.shape, self.heads
        x = f.embedding(items, self.items) * self.width**0.5 + self.positions[:length]
        x = f.dropout(x, self.dropout) * real[..., None]

        def split(x: Any) -> Any:
            return x.view(n, length, heads, -1).transpose(1, 2)

        for p in self.layers:
            q = f.layer_norm(x, (self.width,), p["first_scale"], p["first_shift"], 1e-6)
            asked = [split(f.linear(a, p[name], p[f"{name}_bias"])) for a, name in ((q, "q"), (x, "k"), (x, "v"))]
            told = f.scaled_dot_product_attention(*asked, is_causal=True).transpose(1, 2).reshape(x.shape)
            x = q + f.dropout(f.linear(told, p["out"], p["out_bias"]), self.dropout)
            x = f.layer_norm(x, (self.width,), p["second_scale"], p["second_shift"], 1e-6)
            inner = f.dropout(f.relu(f.linear(x, p["up"], p["up_bias"])), self.dropout)
            x = (x + f.dropout(f.linear(inner, p["down"], p["down_bias"]), self.dropout)) * real[..., None]
        return f.layer_norm(x, (self.width,), self.last["scale"], self.last["shift"], 1e-6)

    def epoch(self, windows: np.ndarray, lengths: np.ndarray, *, batch: int, order: np.ndarray, steps: int) -> float:
        """Seconds of ``steps`` batches of right-padded ``windows [U, L + 1]`` with ``lengths [U]``."""
        torch = self.torch
        table, lengths = torch.from_numpy(windows), torch.from_numpy(lengths)
        began = time.perf_counter()
        for step in range(steps):
            chosen = torch.from_numpy(order[step * batch : (step + 1) * batch])
            longest = max(int(lengths[chosen].max()), 2)
            items = table[chosen, :longest]
            real = torch.arange(longest - 1)[None] < lengths[chosen, None] - 1
            vectors = self.features(items[:, :-1], real.float())[real]
            loss = self.functional.cross_entropy(vectors @ self.items.T, items[:, 1:][real])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return time.perf_counter() - began


def matmul_peak(*, size: int = 2048, repeats: int = 11) -> float:
    """FLOP/s of a large float32 product in PyTorch, the fastest of several."""
    import torch

    a = torch.randn(size, size)
    best = np.inf
    for _ in range(repeats):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / float(best)
