"""The rooms tied together: ``fit`` a model on interactions, ``evaluate`` it, ``recommend`` from it."""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from rich.console import Console

from diffrec_jax.data.events import CSR, Events, checksum, merge
from diffrec_jax.data.rows import device_csr
from diffrec_jax.evaluation.evaluator import KS, Evaluator
from diffrec_jax.evaluation.metrics import METRICS, PROTOCOLS, list_lengths, parse_metric
from diffrec_jax.evaluation.outcome import Evaluation
from diffrec_jax.evaluation.standing import Standing
from diffrec_jax.finite import check_parameters
from diffrec_jax.fit_options import SELECTION, FitOptions
from diffrec_jax.held_out import is_part, joined, masked, numbered, read_by, trained_on, union
from diffrec_jax.mesh import Layout, make_mesh, replicated
from diffrec_jax.models.contract import Catalogue, Params, Scorer, Sizes, check_model, hyper_parameters
from diffrec_jax.processes import is_writer
from diffrec_jax.serving import ModelFolder, Recommender, Table, Vocabulary
from diffrec_jax.serving.model_folder import FOLDER
from diffrec_jax.training.checkpoint import Checkpoints, Progress
from diffrec_jax.training.loop import FitResult
from diffrec_jax.training.loop import fit as run_training
from diffrec_jax.training.observer import Metrics, Observer
from diffrec_jax.training.profile import Profile
from diffrec_jax.training.progress import ProgressLines
from diffrec_jax.training.step import Trainer
from diffrec_jax.warm_start import Start, beginning, refuse_for


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A model with parameters, and the data they came from."""

    model: Scorer
    stored: Any  # the parameters as they lie on the mesh (``mesh.Layout``); ``params`` is what to work with
    train: CSR
    valid: CSR | None
    mesh: Mesh
    result: FitResult

    vocabulary: Vocabulary
    standing: Standing  # what decides between items where the model does not
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    validation: Evaluator | None = None  # compiled, on the validation data
    context: CSR | None = None  # what is shown beside ``train`` when people are ranked, and never trained on
    mask_seen: bool = True  # whether what a person has is left out of what chose the epoch, and is evaluated

    def __repr__(self) -> str:
        sizes = f"{self.train.n_users:,} users, {self.train.n_items:,} items, {len(self.train.indices):,} interactions"
        epoch = f", best epoch {self.result.progress.best_epoch}" if self.result.progress.best_epoch else ""
        return f"Fitted({type(self.model).__name__}: {sizes}, {self.result.parameters:,} parameters{epoch})"

    @functools.cached_property
    def params(self) -> Any:
        """The parameters, whole on every device."""
        seen = self.model.shapes(Catalogue(n_items=self.train.n_items, n_users=self.train.n_users))
        return self.stored if seen is None else Layout(self.mesh, self.model.item_axes).collect(self.stored, seen)

    @functools.cached_property
    def recommender(self) -> Recommender:
        """Lists, explanations and vectors of this model; see ``serving.recommender``."""
        data = (self.train, self.valid)
        content = ModelFolder(self.model, self.vocabulary, *data, self.about, context=self.context)
        return Recommender(content, self.params, mesh=self.mesh)

    def recommend(
        self,
        users: Sequence[Any] | None = None,
        histories: Sequence[Sequence[Any]] | None = None,
        k: int = 10,
        **more: Any,
    ) -> Table:
        """The K best items for known users or for histories, in raw ids; see ``Recommender.recommend``."""
        return self.recommender.recommend(users, histories, k, **more)

    def score(self, users: Sequence[Any] | None = None, items: Sequence[Any] | None = None, **more: Any) -> Table:
        """Scores of given pairs of users and items, in raw ids; see ``Recommender.score``."""
        return self.recommender.score(users, items, **more)


def fit(
    model: Scorer,
    train: CSR | Events,
    valid: CSR | Events | None = None,
    *,
    options: FitOptions | None = None,
    workdir: str | Path | None = None,
    seed: int = 0,
    selection: tuple[str, str] = SELECTION,
    ks: Sequence[int] = KS,
    mesh: Mesh | None = None,
    progress: bool = False,
    observer: Observer | None = None,
    about: Mapping[str, Any] | None = None,
    profile: Profile | None = None,
    mask_seen: bool = True,
    context: CSR | Events | None = None,
    warm_start: Start | None = None,
    **changes: Any,
) -> Fitted:
    """Fit a model to training interactions, choosing the epoch on validation.

    Args:
      model: a trained model such as ``DiffRec(...)``, a closed-form one such as ``EASE()``, or one of each in a
        ``LinearPath``; what of it is trained is alone what is validated while it trains.
      train: training interactions, with what each counts if the log says it (``weight=``).
      valid: validation interactions of the same users and items; None trains for all ``epochs``.
      options: how it is trained by epochs; None takes what the model is usually trained with.
      workdir: where the run lives, here or on ``gs://``: checkpoints, and what ``load`` needs beside them. The same
        call again goes on where it was; with more ``epochs`` (``patience``, ``train_minutes``) a finished run goes on
        from its last state, with fewer it is refused. None keeps everything in memory.
      seed: of everything random; the same seed gives the same parameters.
      selection: protocol and metric that choose the epoch, such as ``("official", "ndcg@10")``; its list length is a
        usual one, or one of ``ks``.
      ks: list lengths that validation reports, beside that of ``selection``.
      mesh: the devices; None takes all, rows spread over them.
      progress: print a line for each validation, in a script or a notebook.
      observer: is told what happens.
      about: what a model card should say of data, split and protocol (JSON values).
      profile: of a few training steps.
      mask_seen: whether validation leaves out of the ranking what a person has in training.
      context: what is shown beside the training interactions when people are ranked, and never trained on: the earlier
        events of held-out sessions (``Split.context``).
      warm_start: what to begin from (module ``warm_start``); a run that has begun already goes on where it was.
      changes: single options by name, as in ``fit(model, train, valid, epochs=3)``; see ``FitOptions``.

    Returns:
      The model with the parameters of its best epoch.
    """
    check_model(model)
    about, (vocabulary, rows) = dict(about or {}), trained_on(model, train)
    valid = None if valid is None else read_by(model, vocabulary, valid, "valid")
    context = None if context is None else read_by(model, vocabulary, context, "context")
    mesh = make_mesh() if mesh is None else mesh
    standing = Standing.of(vocabulary.item_ids, rows)
    model.check_size(rows.n_items)
    options = _options(model, options, changes)
    model, why = model.suited(Sizes.of(rows, options.batch_size))
    content = ModelFolder(model, vocabulary, rows, valid, about, context=context)
    none = FitResult(None, Progress(), 0, 0)
    fitted = Fitted(model, None, rows, valid, mesh, none, vocabulary, standing, about, None, context, mask_seen)
    if model.trained is None:
        refuse_for(model, warm_start)
        return _in_one_go(fitted, content, workdir, progress)
    ks, observer = _validated(selection, ks), observer or Observer()
    catalogue = Catalogue(n_items=rows.n_items, n_users=rows.n_users)
    begin = beginning(warm_start, model.trained, catalogue, vocabulary, workdir=workdir, say=observer.decided)
    trainer = Trainer(model.trained, catalogue, mesh, seed, options, begin)
    if progress:
        observer = ProgressLines(selection, options.eval_every, options.epochs, observer)
    if why:
        observer.decided(why)
    how: dict[str, Any] = {"selection": selection, "ks": ks, "observer": observer, "profile": profile}
    fitted = _by_epochs(fitted, trainer, content, workdir, **how)
    return fitted if trainer.model is model else _completed(fitted, model)


def _by_epochs(
    fitted: Fitted,
    trainer: Trainer,
    content: ModelFolder,
    workdir: str | Path | None,
    *,
    selection: tuple[str, str],
    ks: Sequence[int],
    observer: Observer,
    profile: Profile | None,
) -> Fitted:
    """The part of a model that is trained, with the parameters of its best epoch."""
    evaluator = _evaluator(trainer, fitted, ks)
    if evaluator is not None and evaluator.sampled:
        observer.decided(f"validation: {evaluator.sampling}")

    def validate(params: Params, look_up: Callable[[], None]) -> Metrics:
        assert evaluator is not None
        return evaluator(params, between_batches=look_up).means()

    checkpoints = None if workdir is None else _checkpoints(trainer, content, workdir)
    try:
        result = run_training(
            trainer,
            device_csr(fitted.train, mesh=trainer.mesh),
            validate=None if evaluator is None else validate,
            selection=selection,
            checkpoints=checkpoints,
            observer=observer,
            profile=profile,
        )
    finally:
        if checkpoints is not None:
            checkpoints.close()
    if evaluator is not None:
        result = dataclasses.replace(result, compile_seconds=result.compile_seconds + evaluator.compile_seconds)
    return dataclasses.replace(fitted, model=trainer.model, stored=result.params, result=result, validation=evaluator)


def _options(model: Scorer, options: FitOptions | None, changes: Mapping[str, Any]) -> FitOptions:
    """What was asked for, over what the model is usually trained with."""
    if options is None:
        options = FitOptions() if model.trained is None else model.trained.fit_options
    known = [field.name for field in dataclasses.fields(FitOptions)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise TypeError(f"fit has no option {unknown[0]!r}: its options of training are {', '.join(known)}")
    return dataclasses.replace(options, **changes)


def _in_one_go(fitted: Fitted, content: ModelFolder, workdir: str | Path | None, progress: bool) -> Fitted:
    """A model of which nothing is trained by epochs."""
    fitted = _completed(fitted, content.model)
    if progress and is_writer():
        seconds, parameters = fitted.result.progress.train_seconds, fitted.result.parameters
        Console(highlight=False).print(f"fitted in {seconds:.1f} s: {parameters:,} parameters")
    if workdir is not None and is_writer():
        kept = fitted.stored if content.model.keeps_params else None
        dataclasses.replace(content, params=kept).write(epath.Path(workdir) / FOLDER)
    return fitted


def _completed(fitted: Fitted, model: Scorer) -> Fitted:
    """``model``, given what of it was trained (if anything was): the rest is fitted in one go."""
    began = time.perf_counter()
    trained = None if model.trained is None else fitted.params
    params = jax.block_until_ready(jax.device_put(model.assemble(fitted.train, trained), replicated(fitted.mesh)))
    for part, of_part in model.by_part(params):
        check_parameters(of_part, part)
    seconds = fitted.result.progress.train_seconds + time.perf_counter() - began
    result = dataclasses.replace(
        fitted.result,
        params=params,
        progress=dataclasses.replace(fitted.result.progress, train_seconds=seconds),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
    )
    return dataclasses.replace(fitted, model=model, stored=params, result=result, validation=None)


def _evaluator(trainer: Trainer, fitted: Fitted, ks: Sequence[int]) -> Evaluator | None:
    """What validates while ``trainer`` trains, compiled; None without validation data."""
    train, valid = fitted.train, fitted.valid
    if valid is None or not valid.n_interactions:
        return None
    known = joined(train, fitted.context)
    data: dict[str, Any] = {"history": known, "seen": known, "truth": valid, "standing": fitted.standing}
    sample = trainer.options.users_to_validate(int((valid.lengths() > 0).sum()), valid.n_items)
    more: dict[str, Any] = {"seed": trainer.seed, "ks": ks, "mask_seen": fitted.mask_seen, "sample": sample}
    evaluator = Evaluator(trainer.model, **data, mesh=trainer.mesh, **more)
    evaluator.compile(trainer.abstract_state().params)
    return evaluator


def _checkpoints(trainer: Trainer, content: ModelFolder, workdir: str | Path) -> Checkpoints:
    """The checkpoints of the run in ``workdir``, which is made if need be, with the model folder beside them."""
    of_model, defaults = hyper_parameters(trainer.model)
    options = trainer.options
    identity = {**of_model, "batch_size": trainer.batch_size, "seed": trainer.seed, "prng_impl": options.prng_impl}
    identity |= {"ema_decay": options.ema_decay} if options.ema_decay else {}
    precision = {"dtype": options.dtype, "mu_dtype": options.mu_dtype}
    identity |= {name: value for name, value in precision.items() if value != "float32"}
    identity |= {"train": checksum(content.train), "valid": checksum(content.valid)}
    identity |= {} if content.context is None else {"context": checksum(content.context)}
    checkpoints = Checkpoints(epath.Path(workdir) / "checkpoints")
    checkpoints.claim(identity, defaults=defaults)
    if is_writer():
        content.write(epath.Path(workdir) / FOLDER)
    return checkpoints


def _validated(selection: tuple[str, str], ks: Sequence[int]) -> tuple[int, ...]:
    """The list lengths of validation: those asked for, and that of the metric that chooses the epoch."""
    ks = list_lengths(ks)
    known = [f"{metric}@{k}" for metric in METRICS for k in list_lengths([*KS, *ks])]
    if isinstance(selection, str) or len(selection) != 2 or selection[0] not in PROTOCOLS or selection[1] not in known:
        raise ValueError(
            f"selection={selection!r} is unknown: choose one of {PROTOCOLS} and one of {', '.join(known)}, or name "
            "other list lengths in ks"
        )
    return list_lengths([*ks, parse_metric(selection[1])[1]])


def evaluate(
    fitted: Fitted,
    truth: CSR | Events,
    *,
    seen: CSR | Events | Sequence[CSR | Events] | None = None,
    with_valid: bool = False,
    seed: int = 0,
    ks: Sequence[int] = KS,
    mask_seen: bool | None = None,
    others: bool = False,
    sample: int = 0,
) -> Evaluation:
    """Rank the whole catalogue for every user with held-out items.

    What is evaluated is what is served: the lists of ``fitted.recommend`` (``evaluation.standing``: what decides ties).

    Args:
      fitted: the model.
      truth: held-out interactions, by the raw ids of the training data.
      seen: what is not recommended, one log or several; ``[]`` masks nothing. Unless given, it follows from the pairs:
        interactions that all are validation data are ranked with the training data masked, as in training; those that
        all are training data with nothing masked; any others with both masked. Truth that is masked can't be hit: it
        is counted (``Evaluation.masked``), and a warning says so.
      with_valid: also feed the validation interactions into the history. On the released splits validation lies
        *after* test in time, so that this leaks the future there.
      seed: of noise at inference.
      ks: list lengths.
      mask_seen: leave what is seen out of the ranking; None: as ``fit`` was told.
      others: also judge the other rankings of the same scores (``Evaluation.others``, ``evaluation.conventions``).
      sample: how many of the users with held-out items are ranked, the same ones for every model; 0 ranks all of them.

    Raises:
      ValueError: for a sample of more users than there are, held-out ids that are not in the training data, list
        lengths that are none, or what ``fit`` did not return.
    """
    if not isinstance(fitted, Fitted):
        raise ValueError(f"fitted is a {type(fitted).__name__} and must be what fit(model, train, valid) returns")
    ks = list_lengths(ks)
    truth = numbered(fitted.vocabulary, truth, "truth")
    known, valid = joined(fitted.train, fitted.context), fitted.valid
    history = known
    if with_valid and valid is not None and not is_part(truth, valid):
        history = merge(known, valid)
    evaluator = Evaluator(
        fitted.model,
        history=history,
        seen=masked(known, valid, truth) if seen is None else union(fitted.vocabulary, seen, "seen"),
        truth=truth,
        standing=fitted.standing,
        mesh=fitted.mesh,
        seed=seed,
        ks=ks,
        beyond=True,
        mask_seen=fitted.mask_seen if mask_seen is None else mask_seen,
        others=others,
        sample=sample,
    )
    found = evaluator(fitted.stored)
    if found.masked:
        warnings.warn(found.notes[0], stacklevel=2)
    return found
