"""Language models: files, text, and how answers are scored. The model itself is `trm_jax.models.decoder`."""
