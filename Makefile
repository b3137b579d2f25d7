# PYTHON: the interpreter to start from; STACK: onedl (maintained OpenMMLab releases) or openmmlab (the original ones);
# TORCH: a release of torch, such as 2.14.1, instead of the one in requirements/torch.txt
PYTHON ?= python3
STACK ?= onedl
TORCH ?=
VENV := $(CURDIR)/.venv$(if $(filter-out onedl,$(STACK)),-$(STACK))$(if $(TORCH),-torch$(TORCH))
BIN := $(VENV)/bin
SEED ?= 0

# Bytecode is kept in .venv, also where the environment says otherwise: without, each process compiles all its imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-slow lint docs

setup:
	@$(PYTHON) tools/setup_env.py --stack $(STACK) $(if $(TORCH),--torch "$(TORCH)") --venv "$(VENV)"

# Pre-training on digits, then detection of shapes from its weights; ends with what was reached and where it is.
demo: setup
	@"$(BIN)/python" tools/demo.py --seed $(SEED)

# By as many processes as there are cores, up to four: each takes some 3 GB.
PYTEST = "$(BIN)/python" -m pytest --dist worksteal \
    -n "$$("$(BIN)/python" -c 'import os; print(min(len(os.sched_getaffinity(0)), 4))')"

# Every module is covered.
test: setup
	$(PYTEST) -m "not slow"

# The rest: trainings, kills, processes, exports, builds, and the commands of the documentation.
test-slow: setup
	$(PYTEST) -m slow

# The types are those of the default stack.
lint: setup
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"

# Warnings are errors.
docs: setup
	"$(BIN)/sphinx-build" -W --keep-going -b html docs docs/_build/html
