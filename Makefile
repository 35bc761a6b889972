# make test   everything that go test runs
# make check  what CI runs: formatting, vet, staticcheck, other systems, race, benchmarks, fuzzing
# make build  the command, ./castdeck
# make crash  kills a recorder N times (10,000 take 15 minutes)

GO        ?= go
FUZZTIME  ?= 5s
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
	GOOS=darwin $(GO) build ./...
	GOOS=windows $(GO) build ./...

# -short leaves out what is slow with the detector and has nothing to race.
race:
	$(GO) test -race -short ./...

# Every benchmark once: a benchmark that no longer runs is worse than none.
bench:
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) ./...

# Each fuzz target for a short time; the corpus seeds run in every go test. At the
# end of the time go 1.26 now and then reports its own deadline as a failure (golang/go#75804),
# without an input that fails: that is not one.
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "fuzz $$pkg $$f"; \
	    if out=$$($(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x $$pkg 2>&1); then \
	      echo "$$out" | tail -n 1; \
	    elif echo "$$out" | grep -q 'Failing input' || ! echo "$$out" | grep -q 'context deadline exceeded'; then \
	      echo "$$out"; exit 1; \
	    else \
	      echo "$$out" | grep elapsed | tail -n 1; \
	    fi; \
	  done; \
	done

# SIGKILL at random moments; go test does it 200 times.
crash:
	$(GO) test -count 1 -timeout 0 -run '^Test(Repair)?Killed$$' -v ./cmd/castdeck -crashes $(N)
