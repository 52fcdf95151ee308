"""Diffusion recommender models in JAX."""
