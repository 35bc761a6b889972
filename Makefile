# make test   everything that go test runs
# make check  what CI runs: formatting, vet, staticcheck, other systems, race, benchmarks, fuzzing
# make build  the command, ./castdeck
# make crash  kills a recorder N times (10,000 take 15 minutes)

GO        ?= go
FUZZTIME  ?= 30s
BENCHTIME ?= 1x
N         ?= 10000

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build test check format tidy vet lint cross race bench fuzz crash

build:
	$(GO) build -o castdeck ./cmd/castdeck

test:
	$(GO) test ./...

check: format tidy vet lint cross race bench fuzz

format:
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt -w these:"; echo "$$out"; exit 1; fi

tidy:
	$(GO) mod tidy -diff

vet:
	$(GO) vet ./...

lint:
	$(GO) run $(STATICCHECK) ./...

# Reading, converting and checking works everywhere; recording says that it needs Linux.
cross:
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...

# -short leaves out what is slow with the detector and has nothing to race. A program
# with the detector otherwise sleeps for a second as it ends, and the scripts start
# hundreds.
race:
	GORACE="atexit_sleep_ms=0 $$GORACE" $(GO) test -race -short ./...

# Every benchmark once: a benchmark that no longer runs is worse than none.
bench:
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...

# Each fuzz target for a while, six at a time: they wait for each other's seeds and
# reports more than for a processor. Built before, or six build the same. The corpus seeds
# run in every go test.
fuzz:
	@targets=$$($(GO) list ./... | while read -r pkg; do $(GO) test -list '^Fuzz' $$pkg | sed -n "s,^Fuzz,$$pkg &,p"; done) && \
	  for pkg in $$(echo "$$targets" | cut -d ' ' -f 1 | uniq); do $(GO) test -c -fuzz . -o /dev/null $$pkg || exit 1; done && \
	  echo "$$targets" | GO='$(GO)' FUZZTIME=$(FUZZTIME) xargs -P 6 -n 2 .ci/fuzz

# SIGKILL at random moments; go test does it 200 times.
crash:
	$(GO) test -count 1 -timeout 0 -run '^Test(Repair)?Killed$$' -v ./cmd/castdeck -crashes $(N)
