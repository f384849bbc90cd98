# make paper [TRACK=demo] [LAMBDA_ACC="0.1 0.3"] [SEED=0]   the paper, from data to table
# make paper SHOW=-n                                         what it would execute, and why
# make test                                                  the whole test suite
# make env | lint | publish | unlock | clean-runs

TRACK ?= demo
LAMBDA_ACC ?= 0.1
SEED ?= 0
CORES ?= 2
SHOW ?= --quiet rules
# The Python that the environment is made with: the first of these that is 3.11 or newer.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The runs that are published: of stage 02 that of the first weight.
PUBLISHED := shared/00_data shared/01_prompt_generation \
	mdm-acc$(firstword $(LAMBDA_ACC))/02_finetuning \
	$(addprefix compare/,03_smpl_fitting 04_imu_synthesis 05_lacc_analysis 06_tsne 07_har)

.PHONY: paper test env lint publish unlock clean-runs

paper: $(STAMP)
	$(BIN)/snakemake --snakefile workflow/Snakefile --cores $(CORES) \
		--rerun-triggers mtime params --rerun-incomplete $(SHOW) \
		--config track="$(TRACK)" lambda_acc="$(LAMBDA_ACC)" seed="$(SEED)"

# Two workers with one thread each: two threads of one worker would wait for the other's.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist loadfile $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

publish: $(STAMP)
	$(BIN)/python -m t2imu_utils.publish $(addprefix data/runs/$(TRACK)/,$(PUBLISHED))

# After a run that was killed hard: Snakemake then still holds its folder.
unlock: $(STAMP)
	$(BIN)/snakemake --snakefile workflow/Snakefile --unlock --config track="$(TRACK)"

clean-runs:
	rm -rf data/runs

env: $(STAMP)

# The stamp comes last, so that an installation that broke off is taken up again.
$(STAMP): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "t2imu needs Python 3.11 or newer and found none: install it, or name it with" \
			"'make env PYTHON=/path/to/python3.11'." >&2; exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: install its venv module" \
			"(Debian: apt install python3-venv), or name another with PYTHON=." >&2; exit 1; }
	@echo "Installing the environment into $(VENV) (a few minutes, once)."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)
