# `make run` boots Debian from a fresh clone, `make test` tests everything; `make help` lists the rest.
# Needs GNU make, Python 3.11 or newer, and on Debian or Ubuntu root or sudo for the system programs that are missing.

VENV := .venv
BIN := $(VENV)/bin
IMAGE := images/debian
SHELL := /bin/sh

# Shell functions for the recipes. `need PROGRAM PACKAGE` notes what is missing; `obtain` installs it with apt, or says
# what to install and fails. Programs may be in sbin, which is not on every user's PATH.
define functions
missing=""; \
have() { PATH="$$PATH:/usr/sbin:/sbin" command -v "$$1" >/dev/null 2>&1; }; \
need() { have "$$1" || missing="$$missing $$2"; }; \
as_root() { if [ "$$(id -u)" = 0 ]; then "$$@"; else sudo -n "$$@"; fi; }; \
can_install() { have apt-get && { [ "$$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }; }; \
obtain() { \
    [ -n "$$missing" ] || return 0; \
    if can_install; then \
        echo "installing system packages:$$missing" >&2; \
        as_root env DEBIAN_FRONTEND=noninteractive sh -c "apt-get -qq update; \
            apt-get -qq install -y --no-install-recommends $$missing >/dev/null" && return 0; \
    fi; \
    echo "missing system packages:$$missing" >&2; \
    echo "  on Debian and Ubuntu: apt install$$missing" >&2; \
    return 1; \
}
endef

.PHONY: help install run image test lint bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

install: $(VENV)/.installed ## make .venv with the orchestrator command

$(VENV)/.installed: pyproject.toml
	@$(functions); \
	python=""; \
	for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    if have $$candidate && $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Python 3.11 or newer is missing; make PYTHON=/path/to/python3 names one" >&2; exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then missing=" python3-venv"; obtain || exit 1; fi; \
	[ -x $(BIN)/python ] || $$python -m venv $(VENV) || exit 1; \
	echo "installing Python packages into $(VENV)" >&2; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' || exit 1; \
	touch $@

image: install ## build the Debian image into images/debian, once
	@$(functions); \
	[ -e $(IMAGE)/vm.toml ] && exit 0; \
	if ! have apt-get; then \
	    echo "no apt on this host: no Debian image can be built here" >&2; exit 1; \
	fi; \
	need mke2fs e2fsprogs; need debugfs e2fsprogs; need dpkg-deb dpkg; obtain || exit 1; \
	$(BIN)/orchestrator image debian -o $(IMAGE)

run: install ## boot Debian and join its console; without apt, the embedded guest
	@$(functions); need dbus-daemon dbus; \
	$(BIN)/python -c 'import ctypes; ctypes.CDLL("libslirp.so.0")' 2>/dev/null || need passt libslirp0; \
	obtain || exit 1
	@if [ -e $(IMAGE)/vm.toml ] || $(MAKE) --no-print-directory image; then \
	    exec $(BIN)/orchestrator up $(IMAGE)/vm.toml; \
	else \
	    echo "booting the embedded guest instead; Ctrl-] ends it" >&2; \
	    exec $(BIN)/orchestrator up examples/demo.toml; \
	fi

test: install ## run all tests, linters included
	@$(functions); need dbus-daemon dbus; obtain || exit 1
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(ARGS)

lint: install ## run the linters alone
	$(BIN)/python -m pytest tests/test_linters.py tests/test_imports.py

bench: install ## measure, beside the peers that are installed
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove .venv and what tools have cached here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
