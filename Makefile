# `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
CYCLONEDX := build/cyclonedx/bin/cyclonedx-py
# Tests start us hundreds of times: where nothing is kept, each of them would compile us anew.
unexport PYTHONDONTWRITEBYTECODE
# Test processes against the real control plane, which wait more than they work: three on two processors.
WAITING = $$(($$(nproc) * 3 / 2))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test reliability test-fast check docs controlplane helm promtool bench audit sbom constraints podresources clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv ## a pod is right-sized and placed, shown as pictures in the terminal
	@$(BIN)/migfit demo

test: promtool test-fast controlplane ## everything: test-fast, then against the real control plane
	$(BIN)/pytest -m controlplane -n $(WAITING) --maxschedchunk=1 --durations=10

reliability: controlplane ## what goes wrong, under load, for a minute each, with figures: docs/reference/reliability.md
	RELIABILITY=full $(BIN)/pytest tests/controlplane -m reliability -o timeout=900
	$(BIN)/python bench/abuse.py
	$(BIN)/python bench/random_calls.py

test-fast: check helm $(CYCLONEDX) ## lint, types, layers and the tests that need no control plane
	$(BIN)/pytest -m 'not controlplane' -n auto --durations=10

check: .venv ## lint, types, layers, and that generated pages are current
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	@if [ -f Dockerfile ]; then set -x; $(BIN)/hadolint Dockerfile; fi

docs: .venv ## write the generated pages anew, and the README's picture
	@$(BIN)/python docs/generate.py

controlplane: .venv ## build etcd and Kubernetes into the user's cache, once per version
	@$(BIN)/python -m tests.controlplane.build

helm: .venv ## unpack helm and kubectl into the user's cache where PATH has none
	@$(BIN)/python -m tests.deploy.helm

promtool: .venv ## build promtool into the user's cache where PATH has none
	@$(BIN)/python -m tests.deploy.promtool

bench: .venv ## every benchmark, one after the other
	@set -e; for program in bench/[!_]*.py; do echo "== $$program"; $(BIN)/python "$$program"; done

audit: .venv ## known vulnerabilities of what constraints.txt pins, by asking PyPI
	@$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt || \
		{ echo "Above: what is vulnerable and since when it is not, or why pypi.org could not be asked" >&2; exit 1; }

sbom: .venv $(CYCLONEDX) ## what the image holds of Python, as CycloneDX: dist/migfit.cdx.json
	@rm -rf build/sbom && mkdir -p dist
	@$(PYTHON) -m venv --without-pip build/sbom
	@$(BIN)/python -m pip --python build/sbom/bin/python install --quiet --constraint constraints.txt .
	@$(CYCLONEDX) environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/migfit.cdx.json build/sbom/bin/python

.venv: .venv/.installed ## the environment, with the tools for development
.PHONY: .venv

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed, as python3 or as: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(CYCLONEDX): constraints.txt | .venv
	@$(PYTHON) -m venv --clear --without-pip build/cyclonedx
	@$(BIN)/python -m pip --python build/cyclonedx/bin/python install --quiet --constraint constraints.txt cyclonedx-bom
	@touch $@

constraints: ## pin the newest versions, as an environment made for that gets them
	$(PYTHON) -m venv --clear build/newest
	build/newest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,sbom,uvloop]'
	build/newest/bin/python -m pip freeze --exclude-editable --exclude migfit > constraints.txt

podresources: .venv ## write anew what protoc makes of the kubelet's API
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. extender/agent/podresources.proto

clean: ## remove the environment and what tools left; the control plane's cache stays
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
