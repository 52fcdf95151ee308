"""Flags that make each model small."""

PATH = ["--steps=3", "--epochs=2", "--eval_every=1", "--forecast=5", "--linear_path=0.5"]
ORDER = ["--width=8", "--length=5", "--epochs=2", "--eval_every=1"]
SMALL = {
    "elsa": ["--dim=8", "--epochs=2", "--eval_every=1"],
    "multvae": ["--dims=[8]", "--epochs=2", "--eval_every=1"],
    "lightgcn": ["--dim=4", "--updates=3", "--triples=64"],
    "sasrec": [*ORDER, "--nopacking"],
    "gru4rec": [*ORDER, "--nopacking"],
    "bert4rec": ORDER,
    "diffurec": [*ORDER, "--blocks=1", "--steps=4", "--nopacking"],
    "causal_diffurec": [*ORDER, "--blocks=1", "--steps=4", "--nopacking"],
    "seq_diffrec": [*ORDER, "--blocks=1", "--steps=4"],
    "stosa": [*ORDER, "--heads=2", "--nopacking"],
    "caser": [*ORDER, "--order=2"],
    "acvae": [*ORDER, "--hidden=6", "--latent=4"],
    "t_diffrec": [*PATH, "--dims=[8]", "--guidance=1", "--linear_l2=50"],
    "lt_diffrec": [*PATH, "--in_dims=[8]", "--mlp_dims=[8]", "--item_emb=svd"],
}
