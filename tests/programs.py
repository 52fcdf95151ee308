"""Compiled programs that tests share: the same few models are trained and evaluated again and again."""

import dataclasses
import pickle

import jax
import pytest

from diffrec_jax.evaluation import Evaluator
from diffrec_jax.training import Trainer

_KEPT = {}


def forget():
    """Let everything be traced and compiled anew."""
    _KEPT.clear()


@pytest.fixture(autouse=True, scope="session")
def shared_programs():
    """Trainers and evaluators that are equal, on data of equal shapes, take one program in each process.

    Models of classes that a test makes for itself are left alone, as are those whose functions a test replaces.
    """
    compile_trainer, compile_evaluator, init_trainer = Trainer.compile, Evaluator.compile, Trainer.init

    def trainer_compile(self, csr):
        return _kept(("compile", *_of_trainer(self), _shapes(csr)), self.model, lambda: compile_trainer(self, csr))

    def trainer_init(self):
        if self.begin is not None:
            return init_trainer(self)

        def compile():
            return jax.jit(self._init, out_shardings=self._shardings).lower().compile()

        return _kept(("init", *_of_trainer(self)), self.model, compile)()

    def evaluator_compile(self, params):
        if self._compiled is None:
            shapes = _shapes((params, self._key, self._batches[0], self._data))
            key = ("evaluate", self.mesh, self.ks, self.judged, self.beyond, self.n_users, self._catalogue, shapes)
            self._compiled = _kept(key, self.model, lambda: compile_evaluator(self, params))
        return self._compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "compile", trainer_compile)
        patch.setattr(Trainer, "init", trainer_init)
        patch.setattr(Evaluator, "compile", evaluator_compile)
        yield
    forget()


def _kept(key, model, make):
    try:
        functions = tuple(getattr(type(model), name, None) for name in ("init", "prepare", "loss", "scores"))
        key = (*key, type(model), pickle.dumps(model), functions)
        hash(key)
    except (AttributeError, TypeError, pickle.PicklingError):
        return make()
    if key not in _KEPT:
        _KEPT[key] = make()
    return _KEPT[key]


def _of_trainer(trainer):
    of_the_loop = {"epochs": 1, "eval_every": 1, "patience": 1, "train_minutes": 0.0}  # of no account to the program
    return trainer.catalogue, trainer.mesh, trainer.seed, dataclasses.replace(trainer.options, **of_the_loop)


def _shapes(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, str(leaf.dtype), leaf.sharding) for leaf in leaves)
