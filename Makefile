# make demo: the main job on a real Envoy. make test: everything is tested. Go and Python are enough.
SOURCE ?= envoy
FUZZTIME ?= 30s
GO ?= go

.PHONY: build images demo test unit fuzz e2e figures bench-judge clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o bin/canaryd ./cmd/canaryd

# The images of docker-compose.e2e.yml.
images: build
	e2e/tools.sh envoy-newest prometheus docker
	e2e/images.sh

demo: build
	e2e/tools.sh envoy $(if $(filter prometheus,$(SOURCE)),prometheus)
	bin/canaryd demo --envoy=.tools/bin/envoy --source=$(SOURCE)

test: unit fuzz e2e

unit:
	test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /e2e)

# Each fuzz target gets FUZZTIME beyond its seeds.
fuzz:
	e2e/fuzz.sh $(FUZZTIME)

e2e: build
	e2e/tools.sh envoy-newest envoy-oldest prometheus docker
	$(GO) test -timeout 40m -count=1 -v ./e2e

# The figures of README.md and docs/figures.md, measured anew (about half an hour).
figures: build
	e2e/tools.sh envoy-newest prometheus
	FIGURES=10 $(GO) test -timeout 60m -count=1 -v -run 'Figure' ./e2e

# canaryd's judge beside Flagger's, Argo's and Kayenta's rules: RUNS simulated releases per cell.
RUNS ?= 200
bench-judge:
	$(GO) run ./bench/judge -runs $(RUNS)

clean:
	rm -rf bin .tools
