# make demo            simulate particles, train on them, find poses and map of new ones (results in demo_output/)
# make test            lint, types and all tests
# make lint            lint, formatting and types alone
# make check-installs  install every extra into an empty environment (downloads gigabytes)
# make clean           remove the environment and all that was made
# The first three set up what they need in .venv, once, and are safe to run again.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
TELL_DEVICE := import torch; print("GPU found" if torch.cuda.is_available() else "No GPU found: running on the CPU", flush=True)

.PHONY: help demo test lint check-installs clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

$(READY): setup.py constraints.txt
	@tools/make_environment.sh $(VENV)
	@touch $@

demo: $(READY)
	@$(PYTHON) -c '$(TELL_DEVICE)'
	@$(PYTHON) -m cryopares_core.commands.demo demo_output

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# One thread a process: the two processes of tests share two cores. Whole files, in their order: what a file sets up is made once.
test: lint
	@tools/install_test_tools.sh
	@$(PYTHON) -c '$(TELL_DEVICE)'
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

check-installs:
	@tests/check_installs.sh

clean:
	rm -rf $(VENV) demo_output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
