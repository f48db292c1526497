# Sourced by the scripts: `venv_with EXTRA` makes .venv (one per Python version) hold the project with that extra.
# The install is repeated only when pyproject.toml or the extra has changed.
venv_with() {
    local python=${PYTHON:-python3} extra=$1 version stamp
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    VENV="$PWD/.venv/$version-$extra"
    stamp="$VENV/.installed-$(cksum <pyproject.toml | tr -d ' ')"
    [ -e "$stamp" ] && return
    echo "Setting up $extra tools for Python $version in .venv (once) ..." >&2
    "$python" -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]" >&2
    touch "$stamp"
}
