# JointDiT: every command sets itself up. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
INSTALL_GB ?= 10
TEST_STAMP := $(VENV)/.installed-test
export PYTHONPATH := .

PROFILE ?= toy
CACHE_CFG ?= configs/day02_cache.yaml
TRAIN_A_CFG ?= configs/day05_train.yaml
TRAIN_B_CFG ?= configs/day07_trainB.yaml
INFER_CFG ?= configs/day06_infer.yaml
# how long, and under which name, the two files above train; another file says so itself
ifeq ($(TRAIN_A_CFG),configs/day05_train.yaml)
MAX_STEPS_A ?= 25
SUFFIX_A ?= finalA
endif
ifeq ($(TRAIN_B_CFG),configs/day07_trainB.yaml)
MAX_STEPS_B ?= 1000
SUFFIX_B ?= finalB
endif
run_options = $(if $(1),--max-steps $(1)) $(if $(2),--ckpt-suffix $(2) --log-suffix $(2))
DEMO_MINUTES ?= 6
DEMO_FROM ?=
PROOF_CLIPS ?= 256
DATA ?=
CARD ?=
CKPT ?=
PORT ?= 7860
UI_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test toy-data assets toy-assets cache-train cache-val cache-doctor final-train-a final-train-b \
        final-infer replay ui proof toy-judge toy-joint bench notebooks readme smoke clean

help: ## list every target
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN{FS=":.*## "}{printf "  make %-15s %s\n",$$1,$$2}'

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "JointDiT needs Python 3.11 or newer; '$(PYTHON)' is older. Use: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@echo "== installing JointDiT into $(VENV) (2 to 5 minutes, once)"
	@ls -d $(VENV)/lib/python*/site-packages/torch >/dev/null 2>&1 || df -Pk . | awk -v need=$(INSTALL_GB) 'NR == 2 && $$4 < need * 1048576 { \
	  printf "JointDiT: the install takes %d GB for a while (7 stay: torch with CUDA), and only %.1f GB are free on the disk of this folder.\nMake room, or go on all the same with INSTALL_GB=0.\n", need, $$4 / 1048576; exit 2 }'
	@test -x $(PY) || "$(PYTHON)" -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $(STAMP)

$(TEST_STAMP): $(STAMP)
	@echo "== installing the test tools"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(TEST_STAMP)

install: $(STAMP) ## create .venv and install the package with pinned versions

demo: $(STAMP) ## train a joint model from nothing and open its page: outputs/demo/index.html (DEMO_MINUTES=6, DEMO_FROM=shipped, DATA=folder of your clips)
	@$(PY) scripts/demo.py --minutes $(DEMO_MINUTES) $(if $(DEMO_FROM),--from "$(DEMO_FROM)") $(if $(DATA),--data "$(DATA)")

test: $(TEST_STAMP) ## run the four test layers: sync gate, nbdev_test, papermill, pytest
	@$(PY) scripts/dev/run_tests.py

toy-data: $(STAMP) ## write toy clips (MP4 with sound) to data/toy
	@$(PY) scripts/data/make_toy.py

assets: $(STAMP) ## fetch pretrained weights: make assets PROFILE=svd (or clip, codecs, ltx; list)
	@$(PY) scripts/assets/fetch_assets.py --profile $(PROFILE)

toy-assets: $(STAMP) ## retrain the shipped toy codecs and toy CLIP (about 107 minutes)
	@$(PY) scripts/assets/make_toy_assets.py

toy-judge: $(STAMP) ## retrain the judge that reads toy clips for the proof (about 15 minutes)
	@$(PY) scripts/assets/make_toy_judge.py

toy-joint: $(STAMP) ## retrain the shipped joint toy model: clips, cache, Stage A, Stage B (about two hours)
	@$(PY) scripts/assets/make_toy_joint.py

cache-train: $(STAMP) ## encode the training clips into data/cache
	@$(PY) scripts/data/cache_latents.py --cfg $(CACHE_CFG) --split train

cache-val: $(STAMP) ## encode the validation clips into data/cache
	@$(PY) scripts/data/cache_latents.py --cfg $(CACHE_CFG) --split val

cache-doctor: $(STAMP) ## print a table of the cache and write a page to watch and hear it
	@$(PY) scripts/data/cache_doctor.py --cache data/cache --out outputs/cache_doctor

final-train-a: $(STAMP) ## Stage A (MAX_STEPS_A=25, or TRAIN_A_CFG=configs/... with its own; FORCE_KEEP_USER_ENVS=1 keeps your exported knobs)
	@scripts/finals/train.sh --stage A --cfg $(TRAIN_A_CFG) $(call run_options,$(MAX_STEPS_A),$(SUFFIX_A))

final-train-b: $(STAMP) ## Stage B from the newest Stage A checkpoint (MAX_STEPS_B=1000)
	@scripts/finals/train.sh --stage B --cfg $(TRAIN_B_CFG) $(call run_options,$(MAX_STEPS_B),$(SUFFIX_B))

final-infer: $(STAMP) ## make clips with configs/day06_infer.yaml: outputs/day06
	@scripts/finals/infer.sh --cfg $(INFER_CFG)

replay: $(STAMP) ## make the same clip again from its card: make replay CARD=outputs/day06/seed000_steps30.json
	@test -n "$(CARD)" || { echo "say which clip: make replay CARD=outputs/day06/seed000_steps30.json"; exit 2; }
	@$(PY) scripts/infer/replay.py "$(CARD)"

proof: $(STAMP) ## measure a checkpoint: sync, captions, quality, memory, every direction: outputs/proof/index.html (CKPT=..., PROOF_CLIPS=64)
	@$(PY) scripts/proof.py --clips $(PROOF_CLIPS) $(if $(CKPT),--ckpt "$(CKPT)")

ui: $(STAMP) ## open the browser app on http://127.0.0.1:7860
	@$(PY) scripts/ui/app.py --port $(PORT) $(UI_ARGS)

bench: $(STAMP) ## samples/s of a training step and its share of the matrix-product peak
	@$(PY) scripts/bench.py

smoke: $(STAMP) ## one tiny check per day, seconds each
	@set -e; for f in scripts/smoke/day*.py; do $(PY) $$f; done

notebooks: $(STAMP) ## export the package from the notebooks and clean them
	@$(VENV)/bin/nbdev_export && $(VENV)/bin/nbdev_clean

readme: $(STAMP) ## write README.md from nbs/index.ipynb
	@$(PY) scripts/dev/make_readme.py

clean: ## remove outputs of tests and builds (not data, checkpoints or outputs)
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .coverage .coverage.* htmlcov
