# make help lists the targets. Every target sets up what it needs.

FUNCTIONS := $(notdir $(patsubst %/main.go,%,$(wildcard functions/*/main.go)))

# How functions are compiled: a static file, without the RPC that only the
# retired go1.x runtime used, without local paths and debugging tables.
GOBUILD := CGO_ENABLED=0 go build -tags lambda.norpc -trimpath -ldflags='-s -w'

# Tools in Go: go.sum pins them, in internal/lint the one that needs modules of its
# own. None is installed.
ZIP         := go run github.com/aws/aws-lambda-go/cmd/build-lambda-zip
STATICCHECK := $(CURDIR)/build/staticcheck

# Servers and tools that are not written in Go: FETCH unpacks the named ones that are
# missing into a folder of the user's own, and prints the folder of their programs.
# Nothing is installed and no service is started: see internal/tools.
FETCH := go run ./internal/tools/fetch

.DEFAULT_GOAL := help
.PHONY: help build package test test-suite test-postgres-18 test-clock test-race test-moto test-template policies test-mysql test-redis sweep lint verify bench demo clean clean-tools tools build-SecretRotator build-ParameterPlanner build-ParameterRotator

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## compile the functions and the rekey command for this machine, into build/
	@for f in $(FUNCTIONS); do \
		$(GOBUILD) -o build/$$f/bootstrap ./functions/$$f || exit 1; done
	@$(GOBUILD) -o build/rekey ./cmd/rekey

package: ## make dist/FUNCTION.zip for Lambda (arm64)
	@mkdir -p dist
	@for f in $(FUNCTIONS); do \
		GOOS=linux GOARCH=arm64 $(GOBUILD) -o dist/$$f/bootstrap ./functions/$$f && \
		$(ZIP) -o dist/$$f.zip dist/$$f/bootstrap || exit 1; done
	@ls -l dist/*.zip

# SAM calls build-<resource> for each function with BuildMethod: makefile.
build-SecretRotator: SAM := secret-rotator
build-ParameterPlanner: SAM := parameter-planner
build-ParameterRotator: SAM := parameter-rotator
build-SecretRotator build-ParameterPlanner build-ParameterRotator:
	GOOS=linux GOARCH=arm64 $(GOBUILD) -o $(ARTIFACTS_DIR)/bootstrap ./functions/$(SAM)

demo: tools-postgres tools-mariadb tools-redis build ## rotate real passwords through the shipped functions, and watch
	@go run ./internal/demo

test: tools build lint verify ## run every test; brings what they need
	@$(MAKE) --no-print-directory -j 2 test-suite test-postgres-18

# Many tests wait for servers, and some of these are slow on purpose: so more run than
# there are cores.
test-suite:
	go test -p 4 -parallel 8 -timeout 30m ./...

# A second version of PostgreSQL, for what speaks to it and for the whole of a rotation. -count=1,
# because servers that TestMain starts escape the test cache.
test-postgres-18:
	bin=$$($(FETCH) postgres-18) && export REKEY_POSTGRES_BIN=$$bin && \
		go test -count=1 -parallel 8 -timeout 30m ./internal/servers ./rotators/postgres && \
		go test -count=1 -timeout 30m -run '^Test(CrashSweep|AlternatingUsers|AlternatingUsersInAParameter)$$' ./functions

test-clock: ## the tests that need no server, at the edges of days that calendars have
	@for at in 2030-12-01 2032-02-29 2032-03-01 2031-01-01; do \
		echo "$$at:"; go run ./internal/tools/clock $${at}T00:00:00Z -skip 'NinetyDays|TestModelOfKeys' $(CLOCKED) || exit 1; done

test-race: tools ## the tests once more under the race detector (needs a C compiler)
	go test -race ./...

test-moto: tools build tools-python ## the shipped functions, and the stack, against moto, another implementation of AWS
	@command -v moto_server >/dev/null || { echo "there is no moto_server on PATH: python3 -m pip install 'moto[server]', in an environment of your own"; exit 1; }
	go test -tags moto -run Moto -v ./functions

test-template: tools-python ## lint template.yaml, and what AWS SAM makes of it
	@mkdir -p build
	$(CFNLINT) template.yaml
	python3 internal/template/expand.py template.yaml build/expanded.json
	$(CFNLINT) build/expanded.json
	go test -count=1 -tags sam -run Expanded ./internal/template

# cfn-lint, which brings AWS SAM's translator. Nothing is brought of Python's: where
# its packages come from, and by which sums, is for their user to say.
CFNLINT := python3 -c 'import sys; from cfnlint.runner import main; sys.exit(main())'
tools-python:
	@python3 -c 'import cfnlint, samtranslator' || { echo "python3 has no cfn-lint: python3 -m pip install cfn-lint==1.51.0, in an environment of your own"; exit 1; }

policies: tools-postgres tools-mariadb tools-redis ## hold every AWS call of the functions against their policies, and print the counts
	@go test -count=1 -v ./functions | grep -E '^(policies:|ok|FAIL|--- FAIL)'

test-mysql: tools ## the whole MySQL and MariaDB suite on a real MySQL, which it brings
	@mkdir -p build
	@bin=$$($(FETCH) mysql) && { \
		REKEY_MYSQL_BIN=$$bin go test -count=1 ./rotators/mysql ./internal/lockout ./internal/watch -v -run . >build/test-mysql.log; ok=$$?; \
		grep -E $(RESULTS) build/test-mysql.log; exit $$ok; }

test-redis: ## the whole Redis suite on a newer Redis and on Valkey, which it brings
	@mkdir -p build
	@for s in redis-8 valkey; do bin=$$($(FETCH) $$s) && { \
		REKEY_REDIS_BIN=$$bin go test -count=1 -v ./rotators/redis >build/test-$$s.log; ok=$$?; \
		grep -E $(RESULTS) build/test-$$s.log; test $$ok = 0; } || exit 1; done

# The lines of go test that say how a suite went, and which server it ran on.
RESULTS := '^(the server is|ok|FAIL|--- FAIL|    --- FAIL)'

sweep: tools-postgres ## crash a rotation of a real PostgreSQL at every point, and print how many there are
	@go test -count=1 -v -run TestCrashSweep ./functions | grep -E '^(crash sweep|ok|FAIL|--- FAIL|    )'

lint: ## gofmt, vet and staticcheck
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	go vet ./...
	go vet -tags moto ./functions
	go vet -tags sam ./internal/template
	go -C internal/lint build -o $(STATICCHECK) honnef.co/go/tools/cmd/staticcheck
	$(STATICCHECK) ./...
	@for d in examples/*/; do (cd $$d && $(STATICCHECK) ./...) || exit 1; done

verify: ## check that go.mod is tidy and that no shipped program links package testing
	go mod tidy -diff
	go -C internal/lint mod tidy -diff
	@for p in $(FUNCTIONS:%=./functions/%) ./cmd/rekey; do \
		if go list -deps $$p | grep -qx testing; then echo "$$p links package testing"; exit 1; fi; done

bench: tools-postgres ## measure what BENCHMARKS.md reports
	go test -run '^$$' -bench . -skip Planner -benchtime 20x ./internal/bench
	go test -run '^$$' -bench Planner -benchtime 1x ./internal/bench
	@$(MAKE) --no-print-directory package
	@ls -l dist/*/bootstrap

tools: ## bring the servers and tools that the tests run, as far as they are missing
	@$(FETCH) postgres postgres-18 pgbouncer mariadb redis aws ssh >/dev/null

tools-%:
	@$(FETCH) $* >/dev/null

clean: ## remove what the other targets made
	rm -rf build dist

clean-tools: ## remove what make tools brought
	@$(FETCH) -remove
