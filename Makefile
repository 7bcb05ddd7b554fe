# `make demo` and `make test` set up everything they need in .venv; PYTHON=python3.12 chooses the interpreter.
# `make demo ARGS=--dense` trains the dense model the same way.
PYTHON ?= python3
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test lint format web clean

demo: .venv/.ready
	$(RUN) bash examples/must_c/demo.sh $(ARGS)

test: lint
	$(RUN) $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# onnxruntime-web for the page of `residual-st export --web`, from npm
web:
	cd web && npm ci --ignore-scripts
	rm -rf residual_st/web/ort && mkdir residual_st/web/ort
	cd web/node_modules/onnxruntime-web/dist && cp ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm \
	  "$(CURDIR)/residual_st/web/ort"

.venv/.ready: pyproject.toml setup.py constraints.txt .ci/install
	rm -rf residual_st.egg-info
	$(PYTHON) -m venv .venv
	.ci/install "$(CURDIR)/$(BIN)" "" -e ".[fairseq,transformers,export,runtime,listen,streaming,serve,formats,demo,benchmark,report,test]"
	touch $@

clean:
	rm -rf .venv demo
