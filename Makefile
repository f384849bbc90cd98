# make paper [TRACK=demo] [LAMBDA_ACC="0.1 0.3"] [SEEDS="0 1"] [GENERATORS="mdm momask"]
#                                      the paper, from data to table
# make sweep ... [PROFILE=slurm]       the same for a grid: goes on where a cell fails, and shows
#                                      what there is (workflow/CLUSTER.md)
# make paper | sweep ... DRY_RUN=1     what it would execute, and why
# make prior [GENERATORS=momask]       an open prior of data/prior, trained anew (hours)
# make test                            the whole test suite
# make bench [BENCH_ARGS="--quick"]   seconds of every hot path beside a plain reference
# make book                            README and executed notebooks as a site, book/_build/html
# make env | lint | publish | unlock | clean-runs

TRACK ?= demo
LAMBDA_ACC ?= 0.1
SEEDS ?= 0
# By default all that the track has; MDM is always among them.
GENERATORS ?=
# Rules of workflow/Snakefile whose jobs are run again although nothing has changed that it sees.
FORCE ?=
# 0 leaves out the study that a track may have: many arms, which notebook 08 shows.
STUDY ?= 1
# A folder of workflow/profiles; by default this machine.
PROFILE ?=
CORES ?= 2
DRY_RUN ?=
SHOW ?= $(if $(DRY_RUN),--dry-run,--quiet rules)
# The Python that the environment is made with: the first of these that is 3.11 or newer.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The runs that are published: of stage 02 that of the first weight.
PUBLISHED := shared/00_data shared/01_prompt_generation \
	mdm-acc$(firstword $(LAMBDA_ACC))/02_finetuning \
	$(addprefix compare/,03_smpl_fitting 04_imu_synthesis 05_lacc_analysis 06_tsne 07_har 08_sweep)

# The site has an environment of its own: building it needs none of the study's packages.
BOOK_VENV := .venv-book
BOOK_STAMP := $(BOOK_VENV)/.installed

.PHONY: paper sweep prior test bench book env lint publish unlock clean-runs

SNAKEMAKE = $(BIN)/snakemake --snakefile workflow/Snakefile \
	$(if $(PROFILE),--profile $(firstword $(wildcard $(PROFILE)/) workflow/profiles/$(PROFILE)),--cores $(CORES)) \
	--rerun-triggers mtime params --rerun-incomplete $(if $(FORCE),--forcerun $(FORCE)) $(SHOW) \
	--config track="$(TRACK)" lambda_acc="$(LAMBDA_ACC)" seeds="$(SEEDS)" generators="$(GENERATORS)" \
	study="$(STUDY)"
# Of a track of one's own (TRACK=path.yaml) the file's name.
NAME := $(basename $(notdir $(TRACK)))
COMPARED := $(or $(T2IMU_RUNS),data/runs)/$(NAME)/compare/08_sweep/notebook.ipynb

paper: $(STAMP)
	$(SNAKEMAKE) $(if $(ONLY),-- $(ONLY))

# Of the grid that is asked for alone. Where cells have failed, the table of what there is.
sweep: STUDY := 0
sweep: $(STAMP)
	$(SNAKEMAKE) --keep-going || { status=$$?; test -n "$(DRY_RUN)" || \
		$(BIN)/python -m t2imu_utils.execute notebooks/08_sweep.ipynb $(COMPARED) \
			-p track "$(TRACK)"; exit $$status; }

# The open prior, from raw recordings: hours, and it goes on where it was interrupted.
prior: $(STAMP)
	$(BIN)/python -m tools.make_prior $(GENERATORS)

# One thread each: two of one worker would wait for another's. One worker more than cores, since
# some tests wait for a cluster or a kernel.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(($(CORES) + 1)) --dist loadfile $(PYTEST_ARGS)

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench $(BENCH_ARGS)

# From scratch, since a page that is not made anew would keep its links unchecked.
book: $(BOOK_STAMP)
	@rm -rf book/_build
	$(BOOK_VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet --builder html \
		--conf-dir book --doctree-dir book/_build/doctrees . book/_build/html
	@echo "The site is book/_build/html/index.html."

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

publish: $(STAMP)
	$(BIN)/python -m tools.publish $(addprefix data/runs/$(NAME)/,$(PUBLISHED))

# After a run that was killed hard: Snakemake then still holds its folder.
unlock: $(STAMP)
	$(BIN)/snakemake --snakefile workflow/Snakefile --unlock --config track="$(TRACK)"

clean-runs:
	rm -rf data/runs

env: $(STAMP)

# An empty virtual environment in the folder $(1).
define new_venv
@if [ -z "$(PYTHON)" ]; then \
	echo "t2imu needs Python 3.11 or newer and found none: install it, or name it with" \
		"PYTHON=/path/to/python3.11." >&2; exit 1; fi
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || { rm -rf $(1); \
	echo "$(PYTHON) cannot make a virtual environment: install its venv module" \
		"(Debian: apt install python3-venv), or name another with PYTHON=." >&2; exit 1; }
endef

# The stamp comes last, so that an installation that broke off is taken up again.
$(STAMP): requirements.lock pyproject.toml
	$(call new_venv,$(VENV))
	@echo "Installing the environment into $(VENV) (a few minutes, once)."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

$(BOOK_STAMP): requirements-book.lock
	$(call new_venv,$(BOOK_VENV))
	@echo "Installing what the site is made with into $(BOOK_VENV) (a minute, once)."
	@$(BOOK_VENV)/bin/python -m pip install -qq --disable-pip-version-check -r requirements-book.lock
	@touch $(BOOK_STAMP)
