# make up [N=3], make down, make image, make test, make bench

N       ?= 2
COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
ENGINE  := $(shell docker info >/dev/null 2>&1 && echo yes)
# A Go of the version that go.mod asks for, or a newer one.
NEEDED  := go$(shell awk '/^go / {print $$2}' go.mod)
GO      := $(shell v=$$(go env GOVERSION 2>/dev/null) && printf '%s\n' $(NEEDED) "$$v" | sort -CV && echo yes)

# What the image says of itself. SOURCE is where the code is.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
SOURCE  ?= $(shell git remote get-url origin 2>/dev/null | grep '^https://[^@]*$$')
BUILD   := docker build --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg SOURCE=$(SOURCE)

.PHONY: up down image test bench

up:
ifeq ($(ENGINE),yes)
	$(MAKE) --no-print-directory image
	$(COMPOSE) up -d --no-build --scale flaskapp=$(N)
	@echo "http://localhost:8080 is up, admin at http://localhost:9180/api/state"
else
	@echo "no Docker engine answers: running the demo without containers on http://localhost:8080, admin at http://localhost:9180; Ctrl-C ends it"
	LONGSHORE_LISTEN=:8080 LONGSHORE_ADMIN=:9180 go run ./cmd/longshore demo
endif

down:
	$(COMPOSE) down

# With such a Go on the host the binaries are built there, and no registry is needed: the final
# stages of the Dockerfile are built from them. Without it the whole Dockerfile is built.
image:
ifeq ($(GO),yes)
	CGO_ENABLED=0 GOOS=linux GOARCH=$$(docker version -f '{{.Server.Arch}}') \
		go build -trimpath -ldflags="-s -w -X longshore/internal/version.version=$(VERSION) -X longshore/internal/version.commit=$(COMMIT)" -o build/ ./cmd/longshore ./internal/example/flaskapp
	for stage in flaskapp longshore; do \
		tag=$$([ $$stage = longshore ] && echo longshore || echo longshore-$$stage); \
		awk -v stage=$$stage '/^FROM/ {on = $$NF == stage} on {sub("--from=build /out/", ""); print}' Dockerfile | \
			$(BUILD) -q -t $$tag:latest -f - build || exit 1; \
	done
else
	$(BUILD) --target flaskapp -t longshore-flaskapp:latest .
	$(BUILD) --target longshore -t longshore:latest .
endif

# Tests on the real engine are named TestEngine…. Without an engine they are left out, by name; with
# CI=true that is a failure.
test:
ifneq ($(ENGINE),yes)
	@echo "no Docker engine answers; left out:"; go test -list '^TestEngine' ./... | grep '^TestEngine'
endif
	go test -count=1 -timeout 25m ./...

# Some minutes. go run ./bench throughput has more peers, go run ./bench dynamic plays all scenarios in front of all peers,
# go run ./bench soak takes half an hour.
bench:
	go run ./bench throughput -seconds 1 -peers nginx,longshore,general
ifeq ($(ENGINE),yes)
	go run ./bench dynamic -quick
else
	@echo "no Docker engine answers; left out: go run ./bench dynamic -quick"
endif
