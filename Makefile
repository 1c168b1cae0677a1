# `make demo` and `make test` are all one needs; the rest is for those who work on Tidemark.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where cargo puts its output; the same rule as cargo's own.
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Install what the system lacks (Debian/Ubuntu), or say what that is
	@scripts/setup.sh

# Always the whole workspace: another selection asks other features of DataFusion, and builds it once more.
.PHONY: build
build: setup ## Build the server, dev profile
	cargo build --workspace

.PHONY: demo
demo: build ## Build, start a server with the flights demo, ready for psql
	@scripts/demo.sh "$(TARGET_DIR)/debug/tidemark"

.PHONY: test
test: check ## Everything that must pass: formatting, clippy, unit tests, SQL suites, whole-process tests, docs examples
	scripts/s3s.sh "$(TARGET_DIR)/s3s"
	scripts/kafka.sh "$(TARGET_DIR)/kafka"
	time cargo test --workspace --no-fail-fast

.PHONY: soak
soak: setup ## The differential test with new seeds, for an hour (TIDEMARK_SOAK_SECONDS=3600), 300 kills between Kafka and Kafka, and fuzzers
	scripts/kafka.sh "$(TARGET_DIR)/kafka"
	TIDEMARK_FUZZ_SECONDS=$${TIDEMARK_FUZZ_SECONDS:-300} cargo test --workspace fuzz -- --nocapture
	TIDEMARK_KAFKA_ROUNDS=$${TIDEMARK_KAFKA_ROUNDS:-300} cargo test --workspace --test it kafka_exactly_once -- --nocapture
	TIDEMARK_SOAK_SECONDS=$${TIDEMARK_SOAK_SECONDS:-3600} cargo test --workspace --test it differential -- --nocapture

.PHONY: check
check: setup ## Formatting and clippy, warnings denied
	cargo fmt --all --check
	time cargo clippy --workspace --all-targets -- -D warnings

# What each part has reached of what is asked for, a line of JSON each; the last step prints them as one table.
FIGURES := $(abspath $(TARGET_DIR))/figures.jsonl

.PHONY: bench
bench: export TIDEMARK_FIGURES = $(FIGURES)
bench: ## Nexmark, the engine alone, beside PostgreSQL and beside DuckDB; then all figures with what is asked (an hour, release build)
	rm -f "$(FIGURES)"
	failed=; for part in nexmark engine pg duckdb; do $(MAKE) --no-print-directory "bench-$$part" || failed+=" bench-$$part"; done; \
		python3 -B benches/common/figures.py "$(FIGURES)"; \
		[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

# EVENTS and QUERIES (with commas between) choose others.
.PHONY: bench-nexmark
bench-nexmark: setup ## Nexmark from a file of JSON events into nothing, beside what Flink does (release build)
	cargo bench --workspace --bench nexmark -- $(if $(EVENTS),--events $(EVENTS)) $(if $(QUERIES),--queries $(QUERIES))

# TOPICS (arrow, checkpoints, workers, growth, recovery, first, with commas between), EVENTS and ROUNDS choose others.
.PHONY: bench-engine
bench-engine: ## Windows in memory, commits, 1 and 2 workers, 1 and 10 million events, recovery, the first result (release build)
	@scripts/setup.sh python3-venv
	scripts/venv.sh "$(TARGET_DIR)/engine-bench" benches/engine 3.10
	cargo build --workspace --release
	"$(TARGET_DIR)/engine-bench/bin/python" -B benches/engine --server "$(TARGET_DIR)/release/tidemark" \
		$(if $(TOPICS),--topics $(TOPICS)) $(if $(EVENTS),--events $(EVENTS)) $(if $(ROUNDS),--rounds $(ROUNDS))

# SECONDS of each run of pgbench, and TOPICS (with commas between), choose others.
.PHONY: bench-pg
bench-pg: ## SELECTs by key, COPY and INSERTs over the wire, beside PostgreSQL and Redis on this machine (release build)
	@scripts/setup.sh redis-server
	cargo build --workspace --release
	scripts/bench-pg.sh "$(TARGET_DIR)/release/tidemark" $(if $(SECONDS),--seconds $(SECONDS)) $(if $(TOPICS),--topics $(TOPICS))

.PHONY: bench-loads
bench-loads: setup ## Loads of a million rows by strategy, beside SQL by hand in PostgreSQL on this machine (release build)
	cargo bench --workspace --bench loads

.PHONY: bench-kafka
bench-kafka: setup ## Records of Kafka topics into nothing and into windows, beside a bare consumer (release build)
	scripts/kafka.sh "$(TARGET_DIR)/kafka"
	cargo bench --workspace --bench kafka

# EVENTS and QUERIES (with commas between) choose others.
.PHONY: bench-flink
bench-flink: EVENTS ?= 1000000
bench-flink: ## Nexmark in Apache Flink, beside ours on the same file (release build)
	@scripts/setup.sh python3-venv
	scripts/flink.sh "$(TARGET_DIR)/flink"
	cargo bench --workspace --bench nexmark -- --events $(EVENTS) $(if $(QUERIES),--queries $(QUERIES)) | tee "$(TARGET_DIR)/nexmark-ours.md"
	scripts/flink.sh "$(TARGET_DIR)/flink" benches/flink --ours "$(TARGET_DIR)/nexmark-ours.md" \
		--events $(EVENTS) $(if $(QUERIES),--queries $(QUERIES))

# ROWS, SCALE, PARTS (groupby, tpch, sessions, with commas between), MEMORY (4GB) and FILES (a directory) choose others.
.PHONY: bench-duckdb
bench-duckdb: ## GROUP BY over 10 million rows, and TPC-H on Parquet alone and in ten sessions, beside DuckDB (release build)
	@scripts/setup.sh python3-venv
	scripts/venv.sh "$(TARGET_DIR)/duckdb" benches/duckdb 3.11
	cargo build --workspace --release
	"$(TARGET_DIR)/duckdb/bin/python" -B benches/duckdb --server "$(TARGET_DIR)/release/tidemark" $(if $(ROWS),--rows $(ROWS)) \
		$(if $(SCALE),--scale $(SCALE)) $(if $(PARTS),--parts $(PARTS)) $(if $(MEMORY),--memory $(MEMORY)) $(if $(FILES),--files $(FILES))

.PHONY: slt-postgres
slt-postgres: setup ## Run the SQL suites that are plain Postgres against PostgreSQL itself
	scripts/slt-postgres.sh

.PHONY: clean
clean: ## Remove build output and the demo's data
	cargo clean
	rm -rf tidemark-data
