# shellcheck shell=bash
# The static checks, one function each, and run_checks, which runs them two at a time. Sourced by scripts/test.

prettier_files=('**/*.{ts,js,cjs,json,yaml,yml,html,css}' bin/slipstream-bpf)

# Terminated by NUL.
c_files() {
  find addon bench bpf probe test -path addon/build -prune -o \( -name '*.c' -o -name '*.h' -o -name '*.cc' \) -print0
}

check_eslint() {
  node_modules/.bin/eslint --max-warnings 0 .
}

check_tidy_addon() {
  [[ -d addon/src ]] || return 0
  find addon/src -name '*.cc' -print0 | xargs -0r -P "$(nproc)" -I {} scripts/tidy {} -p addon/build/Release
}

# The programs are #included, so the analyzer must be told to look there; libbpf's BPF_CORE_READ_BITFIELD would be a false
# alarm of the check that is left out.
check_tidy_bpf() {
  local flags
  read -ra flags < <(make -s -f scripts/build.mk show-BPF_FLAGS)
  printf '%s\0' bpf/slipstream.bpf.c bpf/capture.bpf.c test/fixtures/*.bpf.c | xargs -0r -P "$(nproc)" -I {} \
    scripts/tidy {} --checks=-clang-analyzer-core.uninitialized.Assign -- "${flags[@]}" -Xclang -analyzer-opt-analyze-headers
}

check_tidy_programs() {
  local flags
  read -ra flags < <(make -s -f scripts/build.mk show-PROGRAM_FLAGS)
  printf '%s\0' probe/*.c test/programs/*.c test/races/races.c bench/programs/*.c | xargs -0r -P "$(nproc)" -I {} scripts/tidy {} -- "${flags[@]}"
}

check_types() {
  node_modules/.bin/tsc --noEmit --incremental --tsBuildInfoFile build/cache/tsconfig.tsbuildinfo
  # These know what a browser has.
  node_modules/.bin/tsc -p controller/dashboard --incremental --tsBuildInfoFile build/cache/dashboard.tsbuildinfo
  node_modules/.bin/tsc -p test/browser --incremental --tsBuildInfoFile build/cache/browser.tsbuildinfo
  node_modules/.bin/tsc -p test/packages --incremental --tsBuildInfoFile build/cache/packages.tsbuildinfo
}

check_prettier() {
  node_modules/.bin/prettier --check --log-level warn --cache --cache-location build/cache/prettier \
    "${prettier_files[@]}"
}

check_clang_format() {
  c_files | xargs -0r clang-format-19 --dry-run --Werror
}

check_shellcheck() {
  local files
  mapfile -t files < <(find . -type d \( -name .git -o -name node_modules -o -name build \) -prune -o -type f -exec \
    awk 'FNR == 1 { if (/^#! *\/.*(\/| )(ba)?sh( |$)/ || /^# shellcheck shell=/) print FILENAME; nextfile }' {} +)
  shellcheck -x -P SCRIPTDIR "${files[@]}"
}

# The slow ones first.
checks=(eslint tidy_addon types tidy_programs tidy_bpf prettier clang_format shellcheck)

# run_checks: sets checks_passed, checks_failed and failed_checks, their names.
# shellcheck disable=SC2034
run_checks() {
  local name logs running=0
  logs=$(mktemp -d)
  mkdir -p build/cache/tidy
  shopt -s nullglob
  for name in "${checks[@]}"; do
    if ((running == 2)); then wait -n || true; else running=$((running + 1)); fi
    run_check "$name" "$logs" &
  done
  wait
  checks_passed=0 checks_failed=0 failed_checks=
  for name in "${checks[@]}"; do
    if [[ -e $logs/$name.passed ]]; then
      checks_passed=$((checks_passed + 1))
    else
      checks_failed=$((checks_failed + 1))
      failed_checks+=" ${name//_/-}"
    fi
  done
  rm -rf "$logs"
}

run_check() {
  local name=$1 logs=$2
  SECONDS=0
  if "check_$name" >"$logs/$name" 2>&1 </dev/null; then
    touch "$logs/$name.passed"
    say "  ok ${name//_/-} ($SECONDS s)"
  else
    # In one piece, whatever else is reported meanwhile.
    say "  FAILED ${name//_/-}:"$'\n'"$(sed 's/^/    /' "$logs/$name")"
  fi
}
