# Sourced by the scripts: `debian_packages COMMAND=PACKAGE ...` installs each package whose command is missing.
# Only as root on Debian or Ubuntu; elsewhere the tests that need one say so in their skip.
debian_packages() {
    local wanted missing=()
    for wanted in "$@"; do
        command -v "${wanted%%=*}" >/dev/null || missing+=("${wanted#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Missing: ${missing[*]} (install them to run every test)" >&2
        return
    fi
    echo "Installing ${missing[*]} ..." >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 ||
        echo "Could not install ${missing[*]}: the tests that need them are skipped" >&2
}
# Sourced by the scripts: `user_for_jobs NAME` makes a user without password or home, in whose name tests run cluster jobs.
user_for_jobs() {
    [ "$(id -u)" = 0 ] || return 0
    id "$1" >/dev/null 2>&1 || useradd --system --no-create-home --shell /bin/bash "$1" ||
        echo "Could not make the user $1: the tests that need it are skipped" >&2
}
