# make check is what has to hold before a change lands; .ci/run does the same on
# a bare machine and adds the end-to-end runs.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build check fmt vet staticcheck speclinks generate test race e2e clean

build:
	CGO_ENABLED=0 go build -trimpath -o bin/atoll ./cmd/atoll

check: UNCITED =
check: fmt vet staticcheck speclinks generate race

# Fails when a file is not formatted; `gofmt -w .` mends it.
fmt:
	@files=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$files" ] || { echo "not formatted: $$files"; exit 1; }

vet:
	go vet ./...

# A pinned version that is run from the module cache, so that its own
# dependencies stay out of our go.mod.
staticcheck:
	go run $(STATICCHECK) ./...

# What comments cite of the specification has to be there. It also lists the
# sections that no comment cites; `make speclinks UNCITED=` leaves that out.
UNCITED = -uncited
speclinks:
	go run ./cmd/speclinks $(UNCITED)

# Writes the files that are made from source; the check is that none changed.
generate:
	go generate ./...
	go run ./cmd/openapi > openapi.yaml
	if [ -d ../shared/behaviours ]; then go run ./cmd/behaviours ../shared/behaviours > docs/BEHAVIOURS.md; fi
	git diff --exit-code -- docs cmd/atoll/config openapi.yaml

test:
	go test ./...

race:
	go test -race -shuffle=on ./...

e2e:
	.ci/run e2e

clean:
	rm -rf bin
