"""One frozen ``Config`` holds everything a run depends on; the command line is made from its fields.

The defaults are ours, chosen on validation (see BUILD_NOTES.md); the flag files hold the paper's settings.
"""

import dataclasses
from typing import Any

from diffrec_jax.data.recency import KERNELS, Recency
from diffrec_jax.diffusion.schedule import NOISE_SCHEDULES
from diffrec_jax.evaluation import KS
from diffrec_jax.evaluation.metrics import PROTOCOLS, list_lengths, parse_metric
from diffrec_jax.mesh import mesh_sizes
from diffrec_jax.models.baselines import EASE
from diffrec_jax.models.denoiser import ACTIVATIONS
from diffrec_jax.models.linear_path import LinearPath
from diffrec_jax.training.step import DTYPES
from experiments.settings import own_splits, selection
from experiments.settings.kinds import KINDS, LATENT, RECENCY, TIME_AWARE, hyper_parameters, models_of

PRNG_IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")
SPLITS = ("temporal", "leave_one_out", "global_time", "random", "diffrec")
EVAL_HISTORIES = ("train", "train+valid")
STAYS_UNSAID = ("beta_fixed", "fit_weighted")  # the model's own default holds; other unsaid flags are filled in
FIT_OPTIONS = (
    "seed", "batch_size", "epochs", "eval_every", "patience", "train_minutes", "prng_impl", "ema_decay", "dtype",
    "mu_dtype",
)  # fmt: skip
MACHINE = ("compile_cache", "profile_steps", "multihost", "coordinator", "process_id", "process_count", "join_timeout")
NOT_PART_OF_A_RUN = ("mesh", "workdir", "data_dir", "protocol", "seeds", "segments", "quiet", *MACHINE)
# which may differ when a run is taken up again


def option(default: Any, help: str, *, choices: tuple[str, ...] | None = None, group: str = "run") -> Any:
    """A field that is also a flag."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "group": group})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run depends on."""

    # data
    dataset: str = option("ml-100k", "a named dataset, or a folder in the released layout (path, or below --data_dir)")
    data: str = option("", "your own log instead of --dataset: csv, tsv (.gz), .inter, Parquet file or folder")
    valid_data: str = option("", "validation part of your own split, with --test_data", group="log")
    test_data: str = option("", "test part of your own split, whose training part is --data", group="log")
    data_dir: str = option("data", "where --dataset=NAME is looked for")
    user_col: str = option("", "user column of --data", group="log")
    item_col: str = option("", "item column of --data", group="log")
    time_col: str = option("", "time column of --data: unix seconds, ms or µs, or ISO 8601", group="log")
    rating_col: str = option("", "rating column of --data", group="log")
    delimiter: str = option("", "what divides the fields of --data: ';', say; unless given, by its name", group="log")
    encoding: str = option("", "of text files, --data and --titles; unless given, utf-8", group="log")
    header: bool = option(True, "false: --data has no header line, and --user_col=0 is its first column", group="log")
    titles: str = option("", "a csv, tsv or Parquet file (with a header) of titles of the items of --data", group="log")
    title_col: str = option("", "title column of --titles", group="log")
    title_item_col: str = option("", "column of item ids in --titles", group="log")
    min_rating: float | None = option(None, "keep events of --data rated at least this", group="log")
    duplicates: str = option("first", "which event of a repeated pair is kept", choices=("first", "last"), group="log")
    k_core: int = option(
        5, "keep users and items of --data with at least this many events, iteratively; 0 keeps all", group="log"
    )
    min_history: int = option(0, "then keep users with at least this many events", group="log")
    split: str = option(
        "",
        "how a log is split, temporal unless said (released folders come split); diffrec is the recipe of the released "
        "ML-1M with its own filters, ratings >= 4 (or --min_rating) and 10-core",
        choices=("", *SPLITS),
    )
    split_shares: str = option("", "train,valid,test of a split, such as 80,10,10 or 80,0,20; 70,10,20 unless said")
    split_dates: str = option("", "of global_time: VALID,TEST begin these parts, or TEST, without a validation part")
    data_seed: int = option(0, "of random splits and of noise, so that runs of several seeds share their data")
    noise: str = option("", "train on noise: random:SHARE, natural:all or natural:similar_size")
    # model
    model: str = option(
        "diffrec",
        "t: interactions weigh by recency; l: latents of item clusters; and what a user would pick instead",
        choices=tuple(KINDS),
    )
    dims: tuple[int, ...] = option((200, 600), "hidden widths, innermost first: [200,600] is I-600-200-600-I")
    emb_size: int = option(10, "width of the step embedding")
    activation: str = option("tanh", "of the hidden layers", choices=tuple(ACTIVATIONS))
    norm: bool = option(False, "L2-normalise the network's input")
    dropout: float = option(0.5, "rate on the network's input while training")
    mean_type: str = option("x0", "what the network predicts", choices=("x0", "eps"))
    steps: int = option(40, "diffusion steps T")
    noise_schedule: str = option("linear-var", "how noise grows with t", choices=NOISE_SCHEDULES)
    noise_scale: float = option(0.005, "s in [0, 1]; 0 means no diffusion")
    noise_min: float = option(0.005, "noise of the first step, times s")
    noise_max: float = option(0.01, "noise of the last step, times s")
    beta_fixed: bool | None = option(
        None, "overwrite the first beta with 1e-5; unless given, as the authors: not for l_diffrec and lt_diffrec"
    )
    sampling_steps: int = option(0, "T': steps of corruption before inference")
    sampling_noise: bool = option(False, "draw from the posterior at inference instead of taking its mean")
    reweight: bool = option(True, "weigh the loss of each step as the evidence bound does")
    recency: str = option("", "recency kernel; t_ and lt_diffrec take linear if none is named", choices=("", *KERNELS))
    w_min: float = option(0.1, "weight of a user's oldest interaction")
    w_max: float = option(1.0, "weight of a user's newest interaction")
    recency_power: float = option(2.0, "exponent of --recency=power")
    half_life: float = option(180.0, "days, of --recency=exponential")
    forecast: float = option(
        0.0, "with a --recency: train on pasts to predict futures of this half-life, in interactions; 0 as the paper"
    )
    guidance: float = option(0.0, "how much of the prediction for an empty history leaves the scores; 1: all")
    linear_path: float = option(
        0.0, "this much of EASE's scores is added to the network's; about 1, or 20 to logits", group="network"
    )
    linear_l2: float = option(500.0, "λ of this EASE", group="network")
    # l_diffrec and lt_diffrec
    item_emb: str = option(
        "lightgcn", "item embeddings that are clustered: lightgcn, svd, or a .npy file (here or in the data's folder)",
        group="latent",
    )  # fmt: skip
    n_cate: int = option(2, "item clusters", group="latent")
    in_dims: tuple[int, ...] = option((300,), "latent width, then the encoder's hidden widths")
    out_dims: tuple[int, ...] = option((), "[]: one linear decoder; same as --in_dims: one per cluster")
    act_func: str = option("tanh", "of the autoencoder", choices=tuple(ACTIVATIONS))
    vae_dropout: float = option(0.1, "rate on the autoencoder's input while training")
    reparam: bool = option(True, "train on latents drawn from the encoder, not on its means")
    mlp_dims: tuple[int, ...] = option((300,), "hidden widths of the denoiser, innermost first")
    mlp_act_func: str = option("tanh", "of the denoiser", choices=tuple(ACTIVATIONS))
    lamda: float = option(0.03, "weight of the diffusion loss at the start")
    anneal_cap: float = option(0.005, "weight that it falls to")
    anneal_steps: int = option(500, "epochs to zero, were it not for the cap")
    vae_anneal_cap: float = option(0.3, "weight of KL that is risen to")
    vae_anneal_steps: int = option(200, "steps to weight 1, were it not for the cap")
    lr1: float = option(1e-3, "learning rate of the autoencoder")
    lr2: float = option(5e-4, "learning rate of the denoiser")
    wd1: float = option(0.0, "weight decay of the autoencoder")
    wd2: float = option(0.0, "weight decay of the denoiser")
    # what a user would pick instead
    l2: float = option(500.0, "λ of ease")
    neighbours: int = option(100, "of each item, of item_knn")
    shrink: float = option(10.0, "of item_knn: distrust of similarities that rest on few users")
    asymmetry: float = option(0.5, "of item_knn's similarity: below 0.5, the cosine, it favours rare items")
    fit_weighted: bool | None = option(
        None, "with a --recency: fit weighted rows, not only score them; unless given: not for ease and item_knn"
    )
    dim: int | None = option(None, "factors; unless given, 256 for elsa and 64 for lightgcn")
    layers: int = option(3, "of lightgcn")
    reg: float = option(1e-4, "penalty of lightgcn")
    updates: int = option(200, "steps of gradient descent of lightgcn")
    triples: int = option(2**17, "of user, item and other item, per update of lightgcn")
    # training
    lr: float | None = option(None, "learning rate; unless given, the model's own: 5e-4 for diffrec and t_diffrec")
    weight_decay: float = option(0.0, "decoupled weight decay")
    batch_size: int = option(400, "users per step", group="trained")
    epochs: int = option(1000, "at most this many", group="trained")
    eval_every: int = option(5, "epochs between validations, each followed by a checkpoint", group="trained")
    patience: int = option(20, "epochs without better validation, by --select, before training ends", group="trained")
    train_minutes: float = option(
        0.0, "no epoch begins that would end after this much training and validation; 0: no limit", group="trained"
    )
    dtype: str = option(
        "float32", "what training computes in; what is kept, and ranking, is float32", choices=DTYPES, group="trained"
    )
    mu_dtype: str = option(
        "float32", "what the first moments of the optimizer are kept in", choices=DTYPES, group="trained"
    )
    ema_decay: float = option(
        0.0, "of a moving average of the parameters, then validated and served; 0: none", group="trained"
    )
    seed: int = option(0, "of everything random")
    seeds: int = option(1, "how many runs, of --seed and those after it, each in a folder of its own")
    prng_impl: str = option(
        "threefry2x32", "generator of the training noise; rbg is faster on TPU", choices=PRNG_IMPLS, group="trained"
    )
    mesh: str = option(
        "", "devices: users:4,items:2 spreads rows over 4 and the catalogue over 2; unless given, rows over all"
    )
    # evaluation and output
    protocol: str = option("official", "convention of the printed table; both are recorded", choices=PROTOCOLS)
    select: str = option(
        selection.DEFAULT, "validation metric that chooses the epoch: ndcg@10, say, or standard:ndcg@10"
    )
    ks: tuple[int, ...] = option(KS, "list lengths K that are evaluated and recorded, such as 1,5,20")
    segments: str = option("", "also say metrics by user group: a table with the columns user and group")
    eval_history: str = option("train", "what the test history holds", choices=EVAL_HISTORIES)
    baselines: bool = option(True, "also evaluate popularity and EASE")
    workdir: str = option("", "the run folder; runs/<flag file or dataset>-s<seed> if empty")

    # the machine; recorded in no flag file
    quiet: bool = option(False, "print nothing but errors and, at the end, where the result is")
    compile_cache: bool = option(False, "keep compiled programs for the next run, in the person's own cache folder")
    profile_steps: str = option(
        "", "FIRST:LAST, as in 10:15: trace these training steps, for TensorBoard", group="trained"
    )
    multihost: bool = option(False, "be one of several processes, which share one run; start this command in each")
    coordinator: str = option("", "HOST:PORT of process 0, where JAX cannot find out by itself (with --multihost)")
    process_id: int | None = option(None, "number of this process, from 0 (with --coordinator)")
    process_count: int | None = option(None, "how many processes there are (with --coordinator)")
    join_timeout: int = option(300, "seconds in which all processes must have come (with --multihost)")

    def __post_init__(self) -> None:
        mesh_sizes(self.mesh)  # refuses what is no mesh
        given = [name for name in MACHINE[3:] if getattr(self, name) != getattr(type(self), name)]
        if given and not self.multihost:
            raise ValueError(f"{given[0]} means nothing without --multihost: drop it, or say --multihost")
        if self.multihost and self.seeds > 1:
            raise ValueError(f"seeds={self.seeds} is not for several processes: start one command for each --seed")
        self.profiled  # noqa: B018 (refuses a bad value)
        for name, default in hyper_parameters(self.model).items():
            if getattr(self, name, default) is None and name not in STAYS_UNSAID:
                object.__setattr__(self, name, default)
        for name in ("batch_size", "epochs", "eval_every", "patience", "seeds", "join_timeout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.train_minutes >= 0.0:
            raise ValueError(f"train_minutes={self.train_minutes} must not be negative: 15, say, or 0 for no limit")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay={self.ema_decay} must lie in [0, 1): 0 for none, or .99, say")
        if self.k_core < 0 or self.min_history < 0:
            raise ValueError(f"k_core={self.k_core} and min_history={self.min_history} must not be negative")
        if self.recency and self.model in ("diffrec", "l_diffrec"):
            model = "lt_diffrec" if self.model in LATENT else "t_diffrec"
            raise ValueError(f"recency={self.recency} makes the model time-aware: say --model={model}, or drop it")
        selection.parse(self.select)
        object.__setattr__(self, "ks", list_lengths(self.ks))
        self._refuse_what_means_nothing()
        own_splits.check(self)
        object.__setattr__(self, "split_shares", own_splits.shares_text(self.split_shares))
        if self.data_seed < 0:
            raise ValueError(f"data_seed={self.data_seed} must not be negative")
        if self.data and self.noise.startswith("natural") and self.min_rating is None:
            raise ValueError(f"noise={self.noise} adds low ratings: say --min_rating, or nothing of the log is low")
        if self.model in LATENT and not 1 <= self.n_cate <= min(self.in_dims, default=self.n_cate):
            raise ValueError(
                f"n_cate={self.n_cate} clusters do not share widths of in_dims={list(self.in_dims)}: choose n_cate "
                "between 1 and the smallest of them"
            )
        if self.prng_impl != "threefry2x32" and (self.sampling_steps or self.sampling_noise):
            raise ValueError(
                f"prng_impl={self.prng_impl} cannot draw noise per user, which --sampling_steps and --sampling_noise "
                "need: use threefry2x32"
            )
        self.build_model()

    def _refuse_what_means_nothing(self) -> None:
        """No flag is accepted and ignored: refuse those of a group that this configuration has no use for."""
        for field in dataclasses.fields(self):
            models, name = models_of(field.name, field.metadata["group"]), field.name
            instead = f"--model={' or '.join(models)}" if self.model not in models else self._needed_flag(name)
            if instead and getattr(self, name) != field.default:
                raise ValueError(f"{name} means nothing to {self.model}: drop it, or say {instead}")
        for field in dataclasses.fields(self) if not self.data else ():
            if field.metadata["group"] == "log" and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} means nothing to a named dataset: drop it, or say --data=LOG")
        if self.data and self.dataset != Config.dataset:
            raise ValueError(f"dataset={self.dataset} and data={self.data} are two sources: drop one of them")
        for name in ("title_col", "title_item_col"):
            if getattr(self, name) and not self.titles:
                raise ValueError(f"{name} means nothing without titles: drop it, or say --titles=FILE")
        if self.split == "diffrec" and (self.k_core, self.min_history) != (Config.k_core, Config.min_history):
            raise ValueError("k_core and min_history mean nothing to split=diffrec, which brings its own 10-core")
        if self.split == "diffrec" and self.duplicates != Config.duplicates:
            raise ValueError(f"duplicates={self.duplicates} means nothing to split=diffrec: it keeps the first")

    def _needed_flag(self, name: str) -> str:
        """The flag without which another means nothing; empty if there is none."""
        kernel = self.kernel
        if name == "linear_l2":
            return "" if self.linear_path else "--linear_path=0.5"
        if name in ("fit_weighted", "forecast"):
            return "" if kernel else "--recency=linear"
        if name not in RECENCY - {"recency"} or name in hyper_parameters(self.model):
            return ""
        if name in ("recency_power", "half_life"):
            needed = "power" if name == "recency_power" else "exponential"
            return "" if kernel == needed else f"--recency={needed}"
        return "" if kernel else "--recency=linear"

    @property
    def kernel(self) -> str:
        """The recency kernel; empty without one."""
        return self.recency or ("linear" if self.model in TIME_AWARE else "")

    def fit_options(self) -> dict[str, Any]:
        """What ``diffrec_jax.fit`` calls by the same names."""
        chosen_by = selection.parse(self.select)
        ks = (*self.ks, parse_metric(chosen_by[1])[1])
        return {name: getattr(self, name) for name in FIT_OPTIONS} | {"selection": chosen_by, "ks": ks}

    def build_model(self) -> Any:
        """The model of this configuration, latent ones without their clusters; refuses values that make none."""
        names = hyper_parameters(self.model)
        values = {name: getattr(self, name) for name in names if getattr(self, name, None) is not None}
        if self.kernel:
            values["recency"] = Recency(
                kernel=self.kernel,
                w_min=self.w_min,
                w_max=self.w_max,
                power=self.recency_power,
                half_life=self.half_life,
            )
        model = KINDS[self.model](**values)
        if not self.linear_path:
            return model
        shared = {"recency": model.recency, "forecast": model.forecast, "fit_weighted": bool(self.fit_weighted)}
        return LinearPath(network=model, linear=EASE(l2=self.linear_l2, **shared), weight=self.linear_path)

    def means_something(self, name: str) -> bool:
        """Whether a field is of any account to this model."""
        group = self.__dataclass_fields__[name].metadata["group"]
        return self.model in models_of(name, group) and not self._needed_flag(name)

    @property
    def profiled(self) -> tuple[int, int] | None:
        """First step to trace, and the one to stop before; None without."""
        if not self.profile_steps:
            return None
        first, _, last = self.profile_steps.partition(":")
        if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise ValueError(
                f"profile_steps={self.profile_steps} is no FIRST:LAST such as 10:15, with FIRST before LAST"
            )
        return int(first), int(last)

    @property
    def data_name(self) -> str:
        """The name of the data, for tables and default folders."""
        path = self.data or self.dataset
        if self.test_data and "/" in path.rstrip("/"):  # train.csv says less than its folder
            path = path.rstrip("/").rsplit("/", 1)[0]
        return path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]

    def differences(self, other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Fields in which a recorded configuration differs, as ``{name: (recorded, ours)}``.

        What an older version did not record had its default.
        """
        ours = as_json(self)
        other = {**as_json(Config()), **other}
        names = [name for name in {**other, **ours} if name not in NOT_PART_OF_A_RUN and self._matters(name)]
        return {n: (other.get(n), ours.get(n)) for n in names if other.get(n) != ours.get(n)}

    def _matters(self, name: str) -> bool:
        return name not in self.__dataclass_fields__ or self.means_something(name)


def as_json(config: Config) -> dict[str, Any]:
    """The configuration as JSON would hold it."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
