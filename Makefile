# Mote's build. `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# bin/tools/go is what hack/deps fetches where there is no usable Go; sudo and bare shells often leave the others out
export PATH := $(CURDIR)/bin/tools/go/bin:$(PATH):/usr/local/go/bin:/usr/sbin:/sbin

BIN     ?= bin
VERSION ?= $(shell cat VERSION)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/mote-edge/mote/internal/version.Version=$(VERSION) -X github.com/mote-edge/mote/internal/version.Commit=$(COMMIT)
PURE    := mote mote-agent mote-hold mote-cni
WITHC   := mote-runtime mote-init
TAGS    := netgo,osusergo
TOOLS   := $(CURDIR)/$(BIN)/tools
# The packages without the API server libraries run under the race detector; with them a race build costs minutes.
PLAIN   := ./controlplane/... ./cmd/mote/... ./cmd/mote-agent/... ./cmd/internal/... ./examples/...
RACE    := ./agent/... ./cni/... ./proxy/... ./internal/...

.PHONY: help deps build programs cross run stop test lint fmt e2e lab lab-down bench chaos vm vm-conformance conformance crossings fuzz cri-compare clean
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

deps: ## install the Debian packages that build, run and tests need (root), or name them
	@hack/deps

build: programs cross ## static programs into bin/, and for arm64 and armv7 as far as this machine can

programs: deps ## static programs into bin/, for this machine alone
	@for p in $(PURE); do CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/$$p ./cmd/$$p; done
	@# libcontainer's first steps and libseccomp are C: static, so that the program runs on any Linux
	@for p in $(WITHC); do CGO_ENABLED=1 go build -trimpath -tags $(TAGS),seccomp -ldflags '$(LDFLAGS) -linkmode external -extldflags "-static"' -o $(BIN)/$$p ./cmd/$$p; done
	@# As after a reboot: what a linker wrote in large pieces lies in the page cache in large folios, of which Linux 6.18 maps much more than is used
	@for p in $(PURE) $(WITHC); do sync -d $(BIN)/$$p; dd if=$(BIN)/$$p iflag=nocache count=0 status=none; done
	@ls -l $(BIN)/mote*

cross: deps ## programs for arm64 and armv7 into bin/linux-*/ (mote-runtime and mote-init need a C cross compiler, and say which)
	@hack/cross '$(BIN)' '$(TAGS)' '$(LDFLAGS)'

run: programs ## start a cluster on this machine, deploy the example, show how to reach it (root)
	@hack/run

stop: ## stop the cluster that `make run` started and remove what it left (root)
	@$(BIN)/mote uninstall --yes

test: deps ## all tests (root: many make their own namespaces, mounts and cgroups)
	@hack/test '$(RACE)' '$(PLAIN)'

lint: ## golangci-lint with the explicit list of .golangci.yml
	@test -x $(TOOLS)/golangci-lint || GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	@$(TOOLS)/golangci-lint run --timeout 20m ./...

fmt: ## gofumpt over the tree
	@test -x $(TOOLS)/gofumpt || GOBIN=$(TOOLS) go install mvdan.cc/gofumpt@v0.12.0
	@$(TOOLS)/gofumpt -w -extra $$(git ls-files '*.go' ':!test/conformance')

e2e: programs ## end-to-end tests on a lab of nodes in network namespaces (root)
	@go test -count=1 -timeout 30m ./test/e2e/...

lab: programs ## a two-worker cluster in network namespaces on this machine (root); `make lab-down` ends it
	@go run ./test/lab/labctl -bin $(BIN) up

lab-down: ## end the lab
	@go run ./test/lab/labctl -bin $(BIN) down

bench: programs ## memory, start-up and latency on this machine, beside the upstream kubelet, containerd and runc; 250 pods on a node (root, 12 minutes)
	@test/peers/build node || echo "upstream's programs can't be built here (see above): nothing is compared with them" >&2
	@MOTE_BIN=$(abspath $(BIN)) go test -count=1 -timeout 40m -run '^$$' -bench . -benchtime 1x ./test/bench/...

chaos: programs ## kills at random during 500 pods, full disks, lost records, each checked against kernel and API (root, long)
	@CHAOS_PODS=$${CHAOS_PODS:-500} go test -tags $(TAGS),seccomp -count=1 -timeout 60m -v ./test/chaos/...

vm: programs ## a node in QEMU (kernel 6.1, systemd, cgroup v2): smoke list and twenty power cuts (root, an hour)
	@VM=1 go test -count=1 -timeout 180m -v ./test/vm/...

conformance: programs ## upstream's conformance suite, serial specs included, against the lab (root, 45 minutes); FOCUS and SKIP narrow it
	@BIN=$(BIN) test/conformance/run

vm-conformance: programs ## upstream's specs of the node against a node in QEMU: kernel 6.1, systemd, cgroup v2 (root, long)
	@test/conformance/build >/dev/null && test/vm/conformance

crossings: programs ## the upstream kubelet on mote-runtime, and mote agent on containerd, with the specs of test/crossings/smoke (root, long)
	@test/conformance/build >/dev/null && test/peers/build >/dev/null && test/crossings/run

fuzz: deps ## every fuzz target for FUZZTIME (30s) each; what reaches new code is kept in testdata/fuzz
	@hack/fuzz

cri-compare: deps ## critest and test/cri against mote-runtime and containerd (root, long), VM=1: in test/vm; writes docs/conformance.md
	@test/peers/build
	@$(if $(VM),$(MAKE) -s programs && MOTE_BIN=$(abspath $(BIN)) )go run ./test/peers/compare $(if $(VM),-vm)

clean: ## remove what the build made
	@rm -rf $(BIN)
