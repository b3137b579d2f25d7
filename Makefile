# PYTHON: the interpreter to start from; STACK: onedl (maintained OpenMMLab releases) or openmmlab (the original ones);
# TORCH: a release of torch, such as 2.14.1, instead of the one in requirements/torch.txt
PYTHON ?= python3
STACK ?= onedl
TORCH ?=
VENV := $(CURDIR)/.venv$(if $(filter-out onedl,$(STACK)),-$(STACK))$(if $(TORCH),-torch$(TORCH))
BIN := $(VENV)/bin
SEED ?= 0
DEMO := configs/mask_rcnn_fasternet_t0_shapes.py
DIGITS := configs/fasternet_t0_digits.py
DIGITS_WEIGHTS = "$$(cat work_dirs/demo/digits/last_checkpoint)"
DEMO_WEIGHTS = "$$(cat work_dirs/demo/last_checkpoint)"

.PHONY: setup demo test lint docs

setup:
	@$(PYTHON) tools/setup_env.py --stack $(STACK) $(if $(TORCH),--torch "$(TORCH)") --venv "$(VENV)"

# Pre-training on digits, then detection of shapes from its weights.
demo: setup
	"$(BIN)/python" tools/train.py $(DIGITS) --channels-last --work-dir work_dirs/demo/digits --cfg-options randomness.seed=$(SEED)
	@test -d data/shapes || "$(BIN)/python" tools/make_shapes_coco.py data/shapes
	"$(BIN)/python" tools/train.py $(DEMO) --channels-last --work-dir work_dirs/demo --cfg-options randomness.seed=$(SEED) \
	    model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=$(DIGITS_WEIGHTS)
	"$(BIN)/python" tools/image_demo.py data/shapes/val $(DEMO) $(DEMO_WEIGHTS) --out-dir work_dirs/demo/pictures
	"$(BIN)/python" tools/benchmark_detector.py $(DEMO) --checkpoint $(DEMO_WEIGHTS) --images data/shapes/val
	"$(BIN)/python" tools/test.py $(DEMO) $(DEMO_WEIGHTS) --work-dir work_dirs/demo/test

# By as many processes as there are cores, up to four: each takes some 3 GB.
test: setup
	"$(BIN)/python" -m pytest --dist worksteal \
	    -n "$$("$(BIN)/python" -c 'import os; print(min(len(os.sched_getaffinity(0)), 4))')"

# The types are those of the default stack.
lint: setup
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"

# Warnings are errors.
docs: setup
	"$(BIN)/sphinx-build" -W --keep-going -b html docs docs/_build/html
