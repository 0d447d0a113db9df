# Two commands for newcomers: `make demo` and `make test`. Each sets up .venv first if need be.
PYTHON ?= python3
# Tests that no backend matters to run under the first, which starts fastest.
BACKENDS ?= torch tensorflow jax openvino
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test check clean

demo: .venv/demo
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/convnext-keras demo

test: .venv/dev
	@only=""; for backend in $(BACKENDS); do \
		echo "== $$backend"; \
		KERAS_BACKEND=$$backend $(BIN)/python -m pytest --numprocesses 2 -m "$$only" || exit 1; \
		only="not any_backend"; \
	done

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[jax]"
	touch $@

.venv/dev: pyproject.toml .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ .venv/demo
