# `make up` and `make test` install all that they need themselves; see README.md.
SHELL := /bin/bash
RUN := .venv/bin/python
COMMAND := .venv/bin/future-kubernetes
# Processes of the end-to-end tests; two keep a slow machine within their limits.
PROCESSES ?= 3

.PHONY: help up down status password test test-unit test-chart test-browser test-e2e pictures lint test-vm coverage generate bench
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -ts $$'\t'

up: .venv/ready-up ## Kubernetes on this machine, stack dev, and a parallel R run; FULL=1 for the article's full size, CONFIG="workers=8 ide=..." over Pulumi.dev.yaml
	@$(COMMAND) up $(if $(FULL),--full) $(foreach pair,$(CONFIG),--config $(pair))

down: .venv/ready-up ## remove stack dev and its cluster
	@$(COMMAND) down

status: .venv/ready-up ## what runs, and the commands to reach it
	@$(COMMAND) status

password: .venv/ready-up ## the IDE's password
	@$(COMMAND) password

test: test-unit test-chart test-browser test-e2e ## every test

test-unit: .venv/ready-test ## settings, sizing, each cloud under mocks, broker
	$(RUN) -m pytest -n auto tests/unit tests/broker

test-chart: .venv/ready-test ## the chart, rendered and checked against the Kubernetes schemas
	$(RUN) -m pytest -n auto tests/chart

test-browser: .venv/ready-test ## login and live page in a real browser, without a cluster; accessibility by axe
	$(RUN) -m pytest -n 2 tests/browser

test-e2e: .venv/ready-test ## a real cluster of its own on this machine, R, and a real browser
	$(RUN) -m pytest -n $(PROCESSES) tests/e2e

pictures: .venv/ready-test ## take the pages' pictures anew
	rm -rf build/pictures && $(RUN) -m pytest -n 0 tests/browser/test_pictures.py tests/e2e/test_pictures.py
	cp build/pictures/*.png docs/

test-vm: .venv/ready-test ## the two commands in a virtual machine: DEBIAN=12 or 13, CACHES=warm or empty, VM=kvm, tcg or uml, WITH=docker; not part of `make test`
	$(RUN) -m tests.vm --debian $(or $(DEBIAN),12) --caches $(or $(CACHES),warm) $(if $(VM),--vm $(VM)) $(foreach engine,$(WITH),--with $(engine))

lint: .venv/ready-test ## types, style, imports, spelling, shell, workflows, prose; STEP=prose for one of them
	@$(RUN) -m ci.lint $(STEP)

coverage: .venv/ready-test ## the unit tests, with the share of lines and branches that they reach; each line in coverage.xml
	$(RUN) -m pytest -n auto --cov --cov-report=term:skip-covered --cov-report=xml tests/unit tests/broker

generate: .venv/ready-test ## write what is made from the settings' models (Pulumi.yaml, docs/settings.md) and from chart/values.schema.yaml, and the dashboard
	@$(RUN) -m components.generate
	@$(RUN) -m ci.generate_chart
	@$(RUN) -m ci.generate_dashboard

bench: .venv/ready-test ## benchmarks, beside their baselines: the program by itself, the workers on stack dev, and up to 1,000 that are simulated there
	$(RUN) bench/program.py && $(RUN) bench/workers.py && $(RUN) bench/simulated.py

# Stamps, so that a second run asks no package index. `uv sync` by another user removes the tests' packages: seen here.
$(shell test -e .venv/lib/python3*/site-packages/pytest || rm -f .venv/ready-test)

# Each holds a superset of the former; --inexact leaves what the other has put there.
.venv/ready-up: pyproject.toml uv.lock local/setup.sh
	@sh local/setup.sh --no-default-groups
	@touch $@

.venv/ready-test: pyproject.toml uv.lock local/setup.sh
	@sh local/setup.sh --group test --all-extras
	@touch $@ .venv/ready-up
