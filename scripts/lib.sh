# shellcheck shell=bash
# What the scripts of this folder share. Sourced, never run; the caller's working directory is left as it is.
set -euo pipefail
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly ROOT

say() { printf '%s\n' "$*"; }

# fail SENTENCE: what happened and what to do, then the end.
fail() {
  printf 'slipstream-bpf: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# need_root WHAT: e.g. need_root 'scripts/up'.
need_root() {
  ((EUID == 0)) || fail "$1 needs root: run it with sudo."
}

# need_node: 20.19 is what yargs and mocha ask for.
need_node() {
  have node || fail "no node on the PATH: install Node.js 20.19 or newer (where sudo hides it: sudo env PATH=\"\$PATH\" $0)."
  node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
    fail "Node.js 20.19 or newer is needed, this is $(node --version) at $(command -v node)."
}

# step LABEL COMMAND...: one line while it works, its whole output if it fails.
step() {
  local label=$1 log status=0
  shift
  say "$label"
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  ((status == 0)) || { printf 'slipstream-bpf: failed (exit code %s): %s\n' "$status" "$label" && cat "$log"; } >&2
  rm -f "$log"
  return "$status"
}

# newest_tool NAME VARIABLE: the command for clang, clang-format and so on. 19 is what the project is checked with;
# other versions will do where it is missing, from 16 on. An environment variable, e.g. CLANG, overrides.
newest_tool() {
  local name=$1 version tool
  if [[ -n ${!2:-} ]]; then
    say "${!2}"
    return
  fi
  for version in 19 20 21 22 18 17 16; do
    if have "$name-$version"; then
      say "$name-$version"
      return
    fi
  done
  have "$name" || return 1
  tool=$("$name" --version)
  [[ $tool =~ version\ ([0-9]+) && ${BASH_REMATCH[1]} -ge 16 ]] && say "$name"
}

# give_back PATH...: after a run as root in somebody's checkout, what was written is the owner's again.
give_back() {
  local owner
  owner=$(stat -c %u:%g "$ROOT")
  ((EUID == 0)) && [[ $owner != 0:* ]] || return 0
  find -P "$@" ! -user "${owner%:*}" -exec chown -h "$owner" {} + 2>/dev/null || true
}
