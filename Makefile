PYTHON ?= python3
# Linux: https://download.pytorch.org/whl/cpu gives the small build of torch, without CUDA.
TORCH_INDEX ?=
TORCH := 2.13.0
ARGS ?=

BIN := .venv/bin
PIP_ARGS := -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
GEN := common/wire/gen

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow format docs lint types check protos lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: .venv/.stamp ## make .venv from requirements.lock (nothing to do when up to date)

.venv/.stamp: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_ARGS) -r requirements.lock
	touch $@

demo: setup ## a whole federation on this machine; ARGS adds options
	$(BIN)/python federated_main.py --mode demo $(ARGS)

PYTEST := $(BIN)/python -m pytest -n logical --dist worksteal

test: setup ## run the tests on all cores, without the slow ones; ARGS adds options
	$(PYTEST) -m "not slow" $(ARGS)

slow: setup ## run the slow tests: kills at every step, real processes, benchmarks, every command of the pages
	$(PYTEST) -m slow --timeout 400 $(ARGS)

format: setup ## put the code into its standard form
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: setup ## write the configuration's reference and the comments of federated_config.yaml
	$(BIN)/python docs/generate.py

lint: setup ## style, and the standard form
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## static types
	$(BIN)/mypy

check: lint types test ## all checks

# Generated code loads under its own protobuf and later ones, never under older ones: hence the oldest supported tools.
# setuptools 81 dropped pkg_resources, which these tools import.
.venv-protos/.stamp: Makefile
	$(PYTHON) -m venv .venv-protos
	.venv-protos/bin/pip install -q grpcio-tools==1.71.2 'setuptools<81'
	touch $@

protos: .venv-protos/.stamp ## regenerate common/wire/gen from protos/
	rm -rf $(GEN) && mkdir -p $(GEN)
	.venv-protos/bin/python -m grpc_tools.protoc -Iprotos --python_out=$(GEN) --pyi_out=$(GEN) protos/*.proto
	sed -i.orig -E 's/^import ([a-z_]+_pb2)/from . import \1/' $(GEN)/*_pb2.py $(GEN)/*_pb2.pyi
	rm $(GEN)/*.orig
	echo '"""Generated from protos/ by `make protos`; do not edit."""' > $(GEN)/__init__.py

# Two freezes of one environment, so that the image runs the very versions that were tested.
FREEZE = (echo '\# Exact versions of the tested environment; remade by `make lock`.'; \
	.venv-lock/bin/pip freeze --exclude fedmtl | sed -E 's/^(torch==[0-9.]+)\+.*/\1/')

lock: ## remake both requirements.lock files from pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install $(PIP_ARGS) torch==$(TORCH) '.[secure]'
	$(FREEZE) > docker/requirements.lock
	.venv-lock/bin/pip install $(PIP_ARGS) torch==$(TORCH) '.[dev]'
	$(FREEZE) > requirements.lock
	rm -rf .venv-lock build *.egg-info

clean: ## remove everything that make made
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
