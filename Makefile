# `make demo` and `make test` set up everything they need in .venv; PYTHON=python3.12 chooses the interpreter.
# `make demo ARGS=--dense` trains the dense model the same way.
PYTHON ?= python3
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test lint format clean

demo: .venv/.ready
	$(RUN) bash examples/must_c/demo.sh $(ARGS)

test: lint
	$(RUN) $(BIN)/python -m pytest

lint: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch comes first and builds are not isolated, or pip would fetch a second torch to build with. fairseq 0.12.2, for Python 3.10,
# is the other way round: it must not see torch, or it builds extensions whose sources it does not ship; and it needs an omegaconf
# whose metadata pip refuses from 24.1 on.
.venv/.ready: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || $(BIN)/pip install "pip<24.1"
	$(BIN)/pip install -c constraints.txt torch numpy cython setuptools wheel
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || $(BIN)/pip install -c constraints.txt fairseq==0.12.2
	$(BIN)/pip install -c constraints.txt --no-build-isolation -e ".[recipe,demo,test]"
	touch $@

clean:
	rm -rf .venv demo
