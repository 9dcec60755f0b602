#!/bin/sh
# Records testdata/v1.jsonl (docker-compose) and testdata/v2.jsonl (docker compose) anew.
# Afterwards: go test -run Recorded -update . and look at what changed in the golden files.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
CGO_ENABLED=0 go build -o "$tmp/app" ./image
go build -o "$tmp/record" .
printf 'FROM scratch\nCOPY app /app\nEXPOSE 5090\nENTRYPOINT ["/app"]\n' >"$tmp/plain"
printf 'FROM scratch\nCOPY app /app\nEXPOSE 5090\nHEALTHCHECK --interval=1s --retries=2 CMD ["/app","check"]\nSTOPSIGNAL SIGQUIT\nENTRYPOINT ["/app"]\n' >"$tmp/checked"
for kind in plain checked; do docker build -q -t "lsrec:$kind" -f "$tmp/$kind" "$tmp"; done
clean() { # down leaves one-off containers
	docker ps -aq --filter label=com.docker.compose.project=lsrec | xargs -r docker rm -f
	docker network rm lsrec_default || true
}
trap 'clean; docker rmi lsrec:plain lsrec:checked; rm -r "$tmp"' EXIT
for v in v1 v2; do
	"$tmp/record" "../$v.scenario" lsrec >"../$v.jsonl"
	clean
done
