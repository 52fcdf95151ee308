"""From a trained model to what people use: lists, explanations, vectors, exports, a service."""

from diffrec_jax.serving.loading import load
from diffrec_jax.serving.model_folder import ModelFolder
from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.serving.results import Table
from diffrec_jax.serving.vocabulary import Vocabulary

__all__ = ["ModelFolder", "Recommender", "Table", "Vocabulary", "load"]
