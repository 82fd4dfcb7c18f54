#!/bin/bash
# Runs every test there is and ends with one line: "N passed, N failed, N skipped".
# `make test` builds what it needs first. COBOX_SOAK=20 asks the tests for their full counts.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/cobox/target}"
export CARGO_TARGET_DIR
export COBOX_SEEDER="${COBOX_SEEDER:-$CARGO_TARGET_DIR/seeder/cobox-seeder}"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0

step() { # NAME COMMAND…: one check that counts as one test
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
    fi
}

if cargo fmt --version >/dev/null 2>&1; then
    step "rustfmt" cargo fmt --all -- --check
else
    skipped=$((skipped + 1))
    echo "skipped: rustfmt is not installed"
fi

printf '\n== tests of the workspace\n'
cargo test --release --locked --workspace --no-fail-fast -- --show-output 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
read -r tests_passed tests_failed tests_ignored < <(awk '
    /^test result:/ { p += $4; f += $6; i += $8 }
    END { print p + 0, f + 0, i + 0 }' "$log")
# A test that cannot run here says so on its own line and returns: it did not pass.
announced=$(grep -c '^skipped: ' "$log" || true)
passed=$((passed + tests_passed - announced))
failed=$((failed + tests_failed))
skipped=$((skipped + tests_ignored + announced))
# Something that did not compile or died has no result line.
if [[ $status -ne 0 && $tests_failed -eq 0 ]]; then
    failed=$((failed + 1))
    echo "FAILED: the tests did not build, or a test program died"
fi

if [[ -f docs/vectors/verify.py ]]; then
    if command -v python3 >/dev/null; then
        step "the test vectors, opened by an independent program" python3 docs/vectors/verify.py
    else
        skipped=$((skipped + 1))
        echo "skipped: the vectors' independent check needs python3"
    fi
fi

if [[ ! -e /dev/fuse ]]; then
    skipped=$((skipped + 1))
    echo "skipped: the benchmark of a mount needs /dev/fuse"
elif ! command -v python3 >/dev/null || ! command -v git >/dev/null; then
    skipped=$((skipped + 1))
    echo "skipped: the benchmark of a mount needs python3 and git"
else
    step "the benchmark of a mount, at its smallest" env COBOX_BIN="$CARGO_TARGET_DIR/release" python3 -B benches/mount/smoke.py
fi

quiet() { # COMMAND…: says what it printed only when it fails
    local said status=0
    said=$("$@" 2>&1) || status=$?
    [[ $status -eq 0 ]] || printf '%s\n' "$said"
    return $status
}

if [[ ! -e /dev/fuse ]] || ! command -v fusermount3 >/dev/null; then
    skipped=$((skipped + 1))
    echo "skipped: the demo needs /dev/fuse and fusermount3"
else
    step "make demo, as a newcomer runs it" quiet env COBOX_BIN="$CARGO_TARGET_DIR/release" scripts/demo.sh
fi

# It takes 82 s, and each thing it shows has a test above.
if [[ -n ${COBOX_SOAK:-} ]]; then
    if [[ $EUID -ne 0 || ! -e /dev/fuse ]] || ! command -v ip >/dev/null; then
        skipped=$((skipped + 1))
        echo "skipped: the demo of seeders needs root, iproute2 and /dev/fuse"
    else
        step "make demo-seeder" quiet env COBOX_BIN="$CARGO_TARGET_DIR/release" scripts/demo-seeder.sh
    fi
fi

if [[ $failed -gt 0 ]]; then
    printf '\nwhat failed:\n'
    grep -E '^test .* FAILED$' "$log" || true
    # What each of them said, again where a reader of the last lines finds it.
    awk '/^test .* FAILED$/ { bad[$2] = 1 }
         /^---- .* stdout ----$/ { left = ($2 in bad) ? 40 : 0 }
         left > 0 { left--; print }' "$log" | cut -c 1-1000 | head -n 200
fi
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[[ $failed -eq 0 ]]
