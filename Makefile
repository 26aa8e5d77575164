# make demo: the main job on a real Envoy. make test: everything is tested. Go and Python are enough.
SOURCE ?= envoy
FUZZTIME ?= 10s
PARALLEL ?= 4
GO ?= go

SHELL := bash
.SHELLFLAGS := -o pipefail -c
TALLY := $(CURDIR)/bin/tally.txt
COUNT = bin/tally -into $(TALLY)

.PHONY: build images demo test unit fuzz e2e figures bench-judge bench-scale clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o bin/canaryd ./cmd/canaryd

# The images of docker-compose.e2e.yml.
images: build
	e2e/tools.sh envoy-newest prometheus docker
	e2e/images.sh

demo: build
	e2e/tools.sh envoy $(if $(filter prometheus,$(SOURCE)),prometheus)
	bin/canaryd demo --envoy=.tools/bin/envoy --source=$(SOURCE)

# All three, whatever becomes of the others; at its end the sum of all tests that were run.
test: bin/tally
	@rm -f $(TALLY); failed=; \
	for group in unit fuzz e2e; do \
	  $(MAKE) --no-print-directory $$group TALLY=$(TALLY) && continue; \
	  failed="$$failed $$group"; \
	  grep -qs "^$$group: .* [1-9][0-9]* failed" $(TALLY) || echo "$$group: 0 passed, 1 failed, 0 skipped" >>$(TALLY); \
	done; \
	bin/tally -sum $(TALLY) && test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

bin/tally: e2e/tally/main.go
	$(GO) build -o bin/tally ./e2e/tally

# The long simulations of internal/analysis are short with the race detector, and are run without it too.
unit: bin/tally
	test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) test -json -race -timeout 20m $$($(GO) list ./... | grep -v /e2e$$) | $(COUNT) unit
	$(GO) test -json -timeout 20m ./internal/analysis | $(COUNT) unit

# Each fuzz target gets FUZZTIME beyond its seeds.
fuzz: bin/tally
	TALLY=$(TALLY) e2e/fuzz.sh $(FUZZTIME)

# Tests that wait run beside each other, PARALLEL at a time; those that measure come before them.
e2e: build bin/tally
	e2e/tools.sh envoy-newest envoy-oldest prometheus docker disk api systemd openssl lint
	$(GO) test -json -timeout 40m -count=1 -parallel $(PARALLEL) ./e2e | $(COUNT) -v e2e

# The figures of README.md and docs/figures.md, measured anew (about half an hour).
figures: build
	e2e/tools.sh envoy-newest prometheus
	FIGURES=10 $(GO) test -timeout 60m -count=1 -v -run 'Figure' ./e2e
	FIGURES=10 $(GO) test -timeout 10m -count=1 -v -run 'Figure' ./internal/xds

# canaryd beside the rules of Flagger, Argo, Kayenta, PipeCD and Amazon ECS: RUNS simulated releases per cell.
RUNS ?= 200
bench-judge:
	$(GO) run ./bench/judge -runs $(RUNS)

# Ten thousand services, streams and rollouts, beside go-control-plane's caches: ROWS of its table, one after the other, on a machine that has
# nothing else to do (at most a quarter of an hour for all, 4 GB). The table is written to bin/scale.md.
ROWS ?= all
bench-scale: build
	e2e/tools.sh envoy-newest
	$(GO) build -o bin/scale ./bench/scale
	bin/scale -rows $(ROWS) -rest 60s -idle 0.7 -within 12m >bin/scale.md; ended=$$?; cat bin/scale.md; exit $$ended

clean:
	rm -rf bin .tools
