# make up [N=3], make down, make image, make test, make bench

N       ?= 2
COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
ENGINE  := $(shell docker info >/dev/null 2>&1 && echo yes)
GO      := $(shell command -v go)

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

# With a Go toolchain on the host the binaries are built there, and no registry is needed: the final
# stages of the Dockerfile are built from them. Without one the whole Dockerfile is built.
image:
ifneq ($(GO),)
	CGO_ENABLED=0 GOOS=linux GOARCH=$$(docker version -f '{{.Server.Arch}}') \
		go build -trimpath -ldflags="-s -w" -o build/ ./cmd/longshore ./internal/example/flaskapp
	for stage in flaskapp longshore; do \
		tag=$$([ $$stage = longshore ] && echo longshore || echo longshore-$$stage); \
		awk -v stage=$$stage '/^FROM/ {on = $$NF == stage} on {sub("--from=build /out/", ""); print}' Dockerfile | \
			docker build -q -t $$tag:latest -f - build || exit 1; \
	done
else
	docker build --target flaskapp -t longshore-flaskapp:latest .
	docker build --target longshore -t longshore:latest .
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
