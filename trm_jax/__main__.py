from trm_jax.cli.main import entry

entry()
