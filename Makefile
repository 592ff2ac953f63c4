# Needs nothing but Python 3.11, 3.12 or 3.13 and make. Each target installs into .venv once and then runs.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
# PyTorch's own index of small builds, where Linux has no GPU: 0.2 GB, not 3; another one, or none: make train TORCH_INDEX=
TORCH_INDEX ?= $(if $(filter Linux,$(shell uname -s)),$(if $(shell command -v nvidia-smi 2>/dev/null),,https://download.pytorch.org/whl/cpu))
ARGS ?=
# of make ui; macOS has given 5000 away: make ui PORT=5001
PORT ?= 5000
BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: demo train test tests test-slow lint docs ui pins sbom docker-pins clean

train: .venv/run.stamp  ## train the prostate bundle on the synthetic cohort
	$(BIN)/python -m monai.bundle run training --config_file bundles/prostate/train.json $(ARGS)

demo: .venv/run.stamp  ## answer two synthetic studies with the model that comes along, and show the report
	$(BIN)/prostate-alm demo $(ARGS)

# two processes on two cores: with a thread for each core in each, threads wait for one another
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint tests  ## what must hold; with --jobs 2 side by side

tests: .venv/dev.stamp
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: .venv/dev.stamp  ## whole tutorials, ensembles and clusters; before a release, and after changes to training or delivery
	$(PYTEST) -m slow $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/docs.stamp  ## the documentation as a site, with the API: build/site/index.html
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/site

ui: .venv/run.stamp  ## compare runs in the browser
	@echo "open http://127.0.0.1:$(PORT)/#/experiments?workflowType=machine_learning"
	$(BIN)/mlflow ui --port $(PORT) --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}

pins: .venv/dev.stamp .venv/docs.stamp
	{ echo "# Exact versions of everything that make installs; regenerate with: make pins"; \
	  $(BIN)/pip freeze --exclude prostate-alm --exclude pip --exclude setuptools | sed 's/+cpu$$//'; } > constraints.new
	mv constraints.new constraints.txt

sbom: .venv/run.stamp  ## what is installed, with licences: shipped, CycloneDX
	$(BIN)/prostate-alm doctor --sbom > sbom.new
	mv sbom.new sbom.cdx.json

docker-pins:  ## the images of docker/ by digest: needs Docker, and a way to its registries
	$(PYTHON) docker/pins.py

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
	  "Python must be 3.11, 3.12 or 3.13, got %d.%d. Run: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

# one index at a time: with two beside each other either may answer for any name
define TORCH
$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --no-deps --retries 1 --index-url $(TORCH_INDEX) \
  "$$(grep '^torch==' $(CONSTRAINTS))" || echo "no torch from $(TORCH_INDEX): pip takes it from where it takes the others")
endef

.venv/run.stamp: .venv/bin/python pyproject.toml $(CONSTRAINTS)
	$(TORCH)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[all]'
	touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml $(CONSTRAINTS)
	$(TORCH)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch .venv/run.stamp $@

# apart from the checks, which need none of it
.venv/docs.stamp: .venv/run.stamp
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv
