# `make demo` and `make test` do all the set-up they need: a virtual environment from the lock file.
.PHONY: demo test lint lock clean
VENV := .venv
# One test process more than cores, as many tests wait for processes that they started; four at most.
TESTERS := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))
READY := $(VENV)/.ready

demo: $(READY)
	$(VENV)/bin/concordat demo

test: $(READY) lint
	tools/test-tools
	$(VENV)/bin/python -m pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

lock: $(READY)
	tools/lock

clean:
	rm -rf $(VENV) concordat-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): locks/dev.txt locks/installer.txt pyproject.toml tools/setup
	tools/setup
