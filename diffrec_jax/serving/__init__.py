"""From a trained model to what people use: lists, explanations, vectors, exports, a service."""

from diffrec_jax.serving.export import export_program, export_safetensors, export_vectors
from diffrec_jax.serving.loading import load
from diffrec_jax.serving.model_folder import ModelFolder
from diffrec_jax.serving.program import load_program
from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.serving.table import Table
from diffrec_jax.serving.vocabulary import Vocabulary

__all__ = [
    "ModelFolder",
    "Recommender",
    "Table",
    "Vocabulary",
    "export_program",
    "export_safetensors",
    "export_vectors",
    "load",
    "load_program",
]
