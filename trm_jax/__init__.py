"""trm_jax: tiny recursive reasoners in JAX."""

__version__ = "0.2.0"
