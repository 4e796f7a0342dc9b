#!/usr/bin/env bash
# Many edits, one after the other; a failing one stops no other. Hands over to `maskora batch`: see
# --help. The environment variable PYTHON names another interpreter than .venv's.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=python3
[[ ! -x $repository/.venv/bin/python ]] || python=$repository/.venv/bin/python
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-$python}" -P -m maskora batch "$@"
