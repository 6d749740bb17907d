# Sourced by ci/smoke and ci/test: a virtual environment in the checkout with what they need.
#
# Sets $venv. Installs again only when pyproject.toml, the wanted extras or the checkout's folder have changed.

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 2
}

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and none was found; install it, or name it with PYTHON=/path."
}

# A compiler that cannot link statically is as good as none: the agent runs in a guest without libraries.
has_static_cc() {
    probe=$(mktemp -d) || fail "No temporary folder can be made."
    echo 'int main(void) { return 0; }' >"$probe/probe.c"
    cc -static -o "$probe/probe" "$probe/probe.c" 2>/dev/null
    result=$?
    rm -rf "$probe"
    return $result
}

# The activation script names the folder that an environment was made in, and pip's scripts run Python there.
belongs_here() {
    grep -qF -e "\"$venv\"" -e "'$venv'" -e "=$venv" "$venv/bin/activate" 2>/dev/null && "$venv/bin/python" -c ''
}

# bootstrap [EXTRA]: makes the environment with the project and, where cc is missing, a C compiler.
bootstrap() {
    venv=$root/.venv
    extras=${1:-}
    if ! has_static_cc; then
        extras=${extras:+$extras,}cc
    fi
    # A copied environment runs the programs, and imports the code, of the checkout that it was made in.
    stamp="$(cksum <"$root/pyproject.toml") $extras in $root"
    if [ -x "$venv/bin/snapproof" ] && [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    python=$(find_python) || exit 2
    if [ -d "$venv" ] && ! belongs_here; then
        echo "$(date +%T) The environment in .venv was made for another folder; it is made anew." >&2
        rm -rf "$venv"
    fi
    if [ ! -x "$venv/bin/python" ]; then
        echo "$(date +%T) Making a virtual environment in .venv." >&2
        "$python" -m venv "$venv" ||
            { rm -rf "$venv"; fail "Python's venv module does not work; on Debian, install python3-venv."; }
    fi
    echo "$(date +%T) Installing Python dependencies." >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable "$root${extras:+[$extras]}" ||
        fail "Python dependencies could not be installed; is a package index reachable for pip?"
    # Without it all is judged the same, only slower; it says so itself.
    "$venv/bin/snapproof" images build core >/dev/null || :
    echo "$stamp" >"$venv/.stamp"
}
