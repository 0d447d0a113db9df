# Two commands for newcomers: `make demo` and `make test`. Each sets up .venv first if need be.
PYTHON ?= python3
BACKENDS ?= torch tensorflow jax openvino
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Two test processes on two cores: more threads of OpenMP would wait for one another, for half of PyTorch's time.
test test-all coverage: export OMP_NUM_THREADS ?= 1
PYTEST := $(BIN)/python -m pytest --dist worksteal

.PHONY: demo train-demo test test-all check docs coverage wheel clean

demo: .venv/demo
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/convnext-keras demo

# Fine-tunes the bundled model, and writes images, charts and a model card.
train-demo: .venv/train-demo
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/convnext-keras demo --train

# The unit tests under PyTorch, which starts fastest, and those that depend on the backend under each of the others.
test: .venv/test
	KERAS_BACKEND=torch $(PYTEST) -n 2 -m "not integration and not slow"
	@for backend in tensorflow jax openvino; do \
		echo "== $$backend"; \
		KERAS_BACKEND=$$backend $(PYTEST) -n 2 -m "cross_backend and not slow" || exit 1; \
	done

# Everything, also with servers, Ray, exports, the browser and the documents. The first backend runs what depends on none,
# with a third process, since many of these tests wait.
test-all: .venv/dev
	KERAS_BACKEND=$(firstword $(BACKENDS)) $(PYTEST) -m cluster
	KERAS_BACKEND=$(firstword $(BACKENDS)) $(PYTEST) -n 3 -m "not cluster"
	@for backend in $(wordlist 2, 9, $(BACKENDS)); do \
		echo "== $$backend"; \
		KERAS_BACKEND=$$backend $(PYTEST) -n 2 -m "not any_backend" || exit 1; \
	done

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, to open from docs/_build/html/index.html; a warning or a broken link within it is an error.
docs: .venv/dev
	KERAS_BACKEND=torch $(BIN)/python scripts/make_docs.py
	KERAS_BACKEND=torch $(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html

# Under one backend, with everything that is run once; pyproject.toml has the floor.
coverage: .venv/dev
	KERAS_BACKEND=torch $(PYTEST) -n 2 -m "not cluster" --cov --cov-report=term

# Built, installed without extras beside one backend, and used.
wheel: .venv/bin/python
	rm -rf dist .venv/wheel
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv .venv/wheel
	.venv/wheel/bin/python -m pip install --quiet dist/*.whl jax
	cd .venv/wheel && KERAS_BACKEND=jax bin/python -c "import convnext_keras; convnext_keras.create_model('convnext_mini.digits')"
	cd .venv/wheel && KERAS_BACKEND=jax bin/convnext-keras models "*mini*" && KERAS_BACKEND=jax bin/convnext-keras demo

clean:
	rm -rf .venv dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[jax]"
	touch $@

.venv/train-demo: .venv/demo
	$(BIN)/python -m pip install --quiet --editable ".[jax,training]"
	touch $@

.venv/test: pyproject.toml .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

.venv/dev: pyproject.toml .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ .venv/test .venv/demo .venv/train-demo
