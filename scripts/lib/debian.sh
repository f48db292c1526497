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
