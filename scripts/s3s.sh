#!/usr/bin/env bash
# Installs s3s-fs below the directory given, unless it is there: an S3 server over a directory, for the tests. Not one of our
# dev-dependencies, since it would turn on other features in the crates that DataFusion is built with.
set -euo pipefail
root=$1 version=0.14.1
grep -qs "\"s3s-fs $version " "$root/.crates.toml" && exit 0
echo "== installing s3s-fs $version, once, in $root"
export CARGO_PROFILE_DEV_DEBUG=0
cargo install s3s-fs --version "$version" --locked --features binary --debug --root "$root" --target-dir "$root/build"
rm -rf "$root/build"
