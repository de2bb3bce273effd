# Nearcast. `make` shows what there is.
.DEFAULT_GOAL := help
.PHONY: help install install-media install-test run test test-deep check lock clean
.PHONY: loadtest bench bench-fanout bench-peak bench-joins bench-memory bench-claims bench-drop bench-nearby bench-report

# Every process here is many starts of the same modules: compiled once, they start in half the time.
unexport PYTHONDONTWRITEBYTECODE

# make run: how many simulated viewers, which stores, and for how long (empty: until Ctrl-C).
VIEWERS ?= 300
STORES ?=
RUN_SECONDS ?=
# make bench-…: 1 for at most 45 s each, with fewer viewers or rounds.
QUICK ?=
# make run MEDIA=1: with a media server to push a real picture to.
MEDIA ?=
# make test: where one wants to look closer, e.g. `make test T=tests/live`.
T ?=

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: ## what `make run` needs
	@deploy/install.sh run

install-media: ## what `make run MEDIA=1` needs
	@deploy/install.sh media

install-test: ## what `make test` needs
	@deploy/install.sh test

run: $(if $(MEDIA),install-media,install) ## start everything with a demo and a simulated audience; Ctrl-C stops it
	@exec .venv/bin/nearcast up --demo --viewers $(VIEWERS) $(if $(STORES),--stores "$(STORES)") $(if $(RUN_SECONDS),--seconds $(RUN_SECONDS)) $(if $(MEDIA),--media)

check: install-test ## formatting, lint, types, import contracts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

# A file stays with one worker, so what a module starts is started once; those that start most come first.
PYTEST = .venv/bin/pytest -n 4 --dist loadfile --no-loadscope-reorder

test: check ## the whole suite against real servers, processes and a browser
	$(PYTEST) -m "not deep" $(T)

test-deep: check ## slow and deep variants too
	$(PYTEST) $(T)

BENCH = .venv/bin/python -m loadtest.bench $(if $(filter-out 0,$(QUICK)),--quick)

bench-fanout: install ## cost of a frame beside websockets, FastAPI and Socket.IO; QUICK=1 takes 45 s at most
	@$(BENCH) fanout

bench-peak: install ## one room at its peak: delays, losses, cost of a viewer; QUICK=1 likewise
	@$(BENCH) peak

bench-joins: install ## storms of joins and of resumes; QUICK=1 likewise
	@$(BENCH) joins

bench-memory: install ## memory of a viewer who only watches; QUICK=1 likewise
	@$(BENCH) memory

bench: bench-fanout bench-peak bench-joins bench-memory ## all of these, one after the other

COUPON_BENCH = .venv/bin/python -m loadtest.bench.coupons $(if $(filter-out 0,$(QUICK)),--quick)

bench-claims: install ## durable coupons a second, beside one commit a claim and beside Redis; QUICK=1 likewise
	@$(COUPON_BENCH) claims

bench-drop: install ## a push drop to 100,000 viewers, beside one query a viewer; QUICK=1 likewise
	@$(COUPON_BENCH) drop

bench-nearby: install ## fixes matched to 25,000 stores in memory, and PostGIS; QUICK=1 likewise
	@$(COUPON_BENCH) nearby

# make loadtest: SHAPE is evening, peak, drop, storm or soak; URL: a deployment, where a private stack is not wanted.
SHAPE ?= peak
SECONDS ?= 60
LOADTEST = --shape $(SHAPE) --viewers $(VIEWERS) --seconds $(SECONDS) $(if $(URL),--url "$(URL)") \
  $(if $(BRAND),--brand "$(BRAND)") $(if $(ROOM),--room "$(ROOM)") $(if $(TOKENS),--tokens "$(TOKENS)") \
  $(if $(GUIDE_TOKEN),--guide-token "$(GUIDE_TOKEN)") \
  $(if $(CONFIG),--config "$(CONFIG)") $(if $(BUDGETS),--budgets "$(BUDGETS)") $(if $(OUT),--out "$(OUT)")

loadtest: install-test ## an evening's load: SHAPE=peak VIEWERS=5000 SECONDS=60 [URL=…]; a report, a verdict, an exit code
	@exec .venv/bin/python -m loadtest.run $(LOADTEST)

bench-report: ## write the latest results into docs/performance.md, and its pictures
	@.venv/bin/python -m loadtest.bench.report

lock: ## write the lock files anew from pyproject.toml
	deploy/lock.sh

clean: ## forget the embedded servers' data and all caches
	@[ ! -L .nearcast/data ] || rm -rf "$$(readlink .nearcast/data)"
	rm -rf .nearcast .pytest_cache .mypy_cache .ruff_cache .hypothesis artefacts
