# `make up` and `make test` are all a newcomer needs; `make help` lists the rest. Each does the set-up itself.
STACK ?= lab
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup lab fetch doctor audit up preview refresh destroy outputs plan env test test-arm64 test-walls check bench clean lock

WITH_ENV = eval "$$(python3 toolchain/env.py)";
SELECT = pulumi stack select --create --non-interactive $(STACK) >/dev/null;

help: ## list the targets; each takes STACK=name (default lab)
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: packages, Python environment, programs, libvirtd, state folder
	@sh toolchain/bootstrap.sh

lab: setup ## make ready what the stack's practice image needs (nothing for other stacks)
	@$(WITH_ENV) python3 -m lab prepare --stack $(STACK)

fetch: lab ## fetch and verify the stack's images, with progress
	@$(WITH_ENV) python3 -m layer1 fetch --stack $(STACK)

doctor: lab ## examine this machine and the stack's hosts before anything is made
	@$(WITH_ENV) python3 -m layer1 doctor --stack $(STACK)

audit: setup ## prove the walls on the running machines, row by row; HTML=file and METRICS=file write those too
	@$(WITH_ENV) $(SELECT) python3 -m layer1 audit --stack $(STACK) $(if $(HTML),--html $(HTML)) \
		$(if $(METRICS),--metrics $(METRICS))

plan: lab ## check the stack's file; say what it makes and which walls are weaker
	@$(WITH_ENV) python3 -m layer1 plan --stack $(STACK)

preview: lab ## say what `up` would do to each node, and what it would refuse
	@$(WITH_ENV) $(SELECT) python3 -m layer1 guard --stack $(STACK) --policy-pack policy

up: fetch ## make the stack, or change it; ends when every node answers. ALLOW=node,… lets losses pass
	@$(WITH_ENV) $(SELECT) python3 -m layer1 guard --stack $(STACK) --policy-pack policy --enforce
	@$(WITH_ENV) pulumi up --stack $(STACK) --policy-pack policy --yes --skip-preview --non-interactive

refresh: lab ## compare the state with what is really there
	@$(WITH_ENV) $(SELECT) pulumi refresh --stack $(STACK) --yes --skip-preview --non-interactive

destroy: setup ## remove everything the stack made, except protected data disks
	@$(WITH_ENV) $(SELECT) pulumi destroy --stack $(STACK) --yes --skip-preview --exclude-protected --non-interactive
	@$(WITH_ENV) python3 -m lab stop

outputs: setup ## print the output `layer1` as JSON
	@$(WITH_ENV) $(SELECT) pulumi stack output layer1 --stack $(STACK) --json

env: ## print the exports for a shell: eval "$$(make -s env)"
	@python3 toolchain/env.py

check: setup ## the fast part: lint, types, unit and component tests
	@$(WITH_ENV) ruff format --check . && ruff check . && mypy && \
		pytest -q -m "not engine and not guest and not arm64 and not walls"

test: setup ## everything: the fast part, the real engine and libvirtd, the practice guest and board
	@$(WITH_ENV) python3 -m lab build
	@$(WITH_ENV) nice python3 -m lab build-arm64
	@$(WITH_ENV) nice python3 -m lab build-walls
	@$(WITH_ENV) ruff format --check . && ruff check . && mypy
	@# Beside each other: the one waits for guests most of the time, the other emulates other machines.
	@$(WITH_ENV) log=.layer1/log/test-emulated.log; nice pytest -m "arm64 or walls" >$$log 2>&1 & emulated=$$!; \
		trap 'kill $$emulated 2>/dev/null || true' EXIT; failed=0; \
		pytest -m "not arm64 and not walls" || failed=$$?; \
		if wait $$emulated; then tail -n 1 $$log; else cat $$log; failed=1; fi; exit $$failed

test-arm64: setup ## boot the practice board alone: arm64, in the shape of a Raspberry Pi (minutes)
	@$(WITH_ENV) nice python3 -m lab build-arm64
	@$(WITH_ENV) pytest -m arm64

test-walls: setup ## build and boot a libvirt host with AppArmor, and prove the walls in it (minutes)
	@$(WITH_ENV) python3 -m lab build
	@$(WITH_ENV) nice python3 -m lab build-walls
	@$(WITH_ENV) pytest -m walls

bench: lab ## measure up, an up without changes, and destroy, in this one run
	@$(WITH_ENV) $(SELECT) python3 -m bench.lifecycle --stack $(STACK)

clean: ## stop the lab's server and remove caches of the checks; state and images stay
	@-$(WITH_ENV) python3 -m lab stop
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis

lock: setup ## resolve each requirements.in to its requirements.lock anew, with hashes (needs uv)
	@$(WITH_ENV) for folder in . policy; do \
		uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
			--quiet --output-file $$folder/requirements.lock $$folder/requirements.in; done
