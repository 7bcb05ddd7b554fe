# `make demo` and `make test` set up what they need in .venv; PYTHON=python3.12 chooses the interpreter.
# `make demo ARGS=--dense` trains the dense model the same way. CONTRIBUTING.md has the rest.
PYTHON ?= python3
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test quick docs lint format web release clean

demo: .venv/.demo
	$(RUN) bash examples/must_c/demo.sh $(ARGS)

test: lint
	$(RUN) $(BIN)/python -m pytest -n 2 --dist loadfile

# what breaks most often, in under a minute on two cores
QUICK := tests/sharing tests/stacks tests/audio tests/evaluation \
  $(addprefix tests/test_,structure.py packaging.py files.py languages.py pieces.py printing.py separator.py compat.py wrapping.py)

quick: .venv/.ready
	$(RUN) $(BIN)/python -m pytest -q -n 2 $(QUICK)

# the documentation as a site in build/site; REPO_URL=https://… names a public repository to link to
docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# onnxruntime-web for the page of `residual-st export --web`, from npm
web:
	cd web && npm ci --ignore-scripts
	rm -rf residual_st/web/ort && mkdir residual_st/web/ort
	cd web/node_modules/onnxruntime-web/dist && cp ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm \
	  "$(CURDIR)/residual_st/web/ort"

.venv/.demo: pyproject.toml setup.py constraints.txt .ci/install
	rm -rf residual_st.egg-info
	$(PYTHON) -m venv .venv
	.ci/install "$(CURDIR)/$(BIN)" "" -e ".[fairseq,export,runtime,serve,demo,report]"
	touch $@

# what tests, docs and all commands need
.venv/.ready: .venv/.demo
	.ci/install "$(CURDIR)/$(BIN)" "" -e ".[transformers,listen,streaming,formats,benchmark,docs,test]"
	touch $@

# sdist and wheel of a tagged, clean checkout in dist/, checked; the maintainer uploads them
release: .venv/.ready
	@test -z "$$(git status --porcelain)" || { echo "release: there are changes that are not committed" >&2; exit 2; }
	@version=$$(sed -n 's/^version = "\([^"]*\)".*/\1/p' pyproject.toml); \
	test "$$(git describe --tags --exact-match 2>&1)" = "v$$version" || { echo "release: this commit must have the tag v$$version" >&2; exit 2; }
	$(BIN)/pip install --quiet build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv demo
