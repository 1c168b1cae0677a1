#!/usr/bin/env bash
# Installs what building and testing Tidemark needs beyond rustup, make and a C compiler. Does nothing when all is there.
#   scripts/setup.sh [python3-venv | redis-server]     `make bench-flink` needs the one as well, `make bench-pg` the other
set -euo pipefail

missing=()   # apt package names
mac=()       # the same for Homebrew

have() { command -v "$1" >/dev/null 2>&1; }

# bindgen (RocksDB) loads libclang at build time; libclang-cpp is another library.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    case "$(uname -s)" in
    Darwin) [ -e "$(xcode-select -p 2>/dev/null)/usr/lib/libclang.dylib" ] \
        || [ -e "$(xcode-select -p 2>/dev/null)/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib" ] ;;
    *) [[ "$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || true)" =~ libclang(-[0-9]+)?\.so ]] \
        || compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null || compgen -G '/usr/lib/llvm-*/lib/libclang-[0-9]*.so*' >/dev/null ;;
    esac
}

need() { # need COMMAND APT BREW
    have "$1" || { missing+=("$2"); mac+=("$3"); }
}

have_libclang || { missing+=(libclang-dev); mac+=(llvm); }
have clang || have g++ || have c++ || { missing+=(g++); mac+=(llvm); }
[ "$(uname -s)" = Linux ] && need mold mold mold
need psql postgresql-client libpq
# librdkafka is built with TLS and SASL by OpenSSL, which pkg-config finds.
need pkg-config pkg-config pkg-config
pkg-config --exists libssl 2>/dev/null || { missing+=(libssl-dev); mac+=(openssl@3); }
# The tests run a real Kafka broker: Maven fetches its jars.
need java default-jre-headless openjdk@17
need mvn maven maven
# The suites and `make bench-pg` compare with a PostgreSQL server; its binaries are not on the PATH in Debian.
have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || { missing+=(postgresql); mac+=(postgresql@17); }
[ "${1:-}" != python3-venv ] || python3 -c 'import ensurepip' 2>/dev/null || { missing+=(python3-venv); mac+=(python@3.12); }
[ "${1:-}" != redis-server ] || { need redis-server redis-server redis; need python3 python3 python@3.12; }

if ! have cargo; then
    echo "setup: cargo is missing. Install Rust 1.95 or newer: https://rustup.rs" >&2
    exit 1
fi

[ ${#missing[@]} -eq 0 ] && exit 0

if have apt-get; then
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || { echo "setup: as root: apt-get install ${missing[*]}" >&2; exit 1; }
        sudo=(sudo)
    fi
    echo "setup: installing ${missing[*]}"
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
elif [ "$(uname -s)" = Darwin ]; then
    echo "setup: this machine lacks some things. Run:" >&2
    echo "    brew install ${mac[*]}" >&2
    echo "and put psql on the PATH:  export PATH=\"\$(brew --prefix libpq)/bin:\$PATH\"" >&2
    exit 1
else
    echo "setup: this machine lacks (names as in Debian): ${missing[*]}" >&2
    echo "Install them with your package manager and run make again. What each is for:" >&2
    echo "    libclang-dev       building RocksDB's bindings" >&2
    echo "    mold               linking" >&2
    echo "    libssl-dev         TLS to Kafka (with pkg-config)" >&2
    echo "    maven, a JRE       the Kafka broker that the tests run" >&2
    echo "    postgresql-client  psql, for the demo and the tests" >&2
    echo "    postgresql         the server that suites and benchmarks compare with" >&2
    exit 1
fi
