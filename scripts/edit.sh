#!/usr/bin/env bash
# One video, one place, one edited frame: out comes the edited clip. Hands over to `maskora edit`: see
# --help. The environment variable PYTHON names another interpreter than .venv's.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=python3
[[ ! -x $repository/.venv/bin/python ]] || python=$repository/.venv/bin/python
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-$python}" -P -m maskora edit "$@"
