# The Go image that builds; any that has a toolchain and a shell.
ARG GO_IMAGE=golang:1.26

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# What `longshore version` says: .git is not here.
ARG VERSION
ARG COMMIT
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X longshore/internal/version.version=${VERSION} -X longshore/internal/version.commit=${COMMIT}" \
    -o /out/ ./cmd/longshore ./internal/example/flaskapp

# The two stages below are also what `make image` builds, from binaries of the host's Go toolchain.
FROM scratch AS flaskapp
COPY --from=build /out/flaskapp /flaskapp
EXPOSE 5090
ENTRYPOINT ["/flaskapp"]

FROM scratch AS longshore
ARG VERSION
ARG COMMIT
ARG SOURCE
LABEL org.opencontainers.image.version="${VERSION:-unknown}" \
      org.opencontainers.image.revision="${COMMIT:-unknown}" \
      org.opencontainers.image.source="${SOURCE:-unknown}" \
      org.opencontainers.image.title="longshore" \
      org.opencontainers.image.description="Reverse proxy and load balancer that follows Docker containers through the event stream" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /out/longshore /longshore
EXPOSE 80 9180
HEALTHCHECK --interval=5s --timeout=4s --retries=3 CMD ["/longshore", "healthcheck"]
ENTRYPOINT ["/longshore"]
