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

# torch comes first. fairseq-fixed is then built with it, not in isolation, where pip would fetch a second torch. fairseq 0.12.2, for
# Python 3.10, is the other way round: if it sees torch it builds extensions whose sources it does not ship; and it needs an
# omegaconf whose metadata pip refuses from 24.1 on.
.venv/.ready: setup.py constraints.txt
	rm -rf residual_st.egg-info
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt torch numpy cython setuptools wheel
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; \
	then $(BIN)/pip install -c constraints.txt --no-build-isolation fairseq-fixed; \
	else $(BIN)/pip install "pip<24.1" && $(BIN)/pip install -c constraints.txt fairseq==0.12.2; fi
	$(BIN)/pip install -c constraints.txt --no-build-isolation -e ".[fairseq,transformers,export,runtime,serve,demo,benchmark,report,test]"
	touch $@

clean:
	rm -rf .venv demo
