"""A sweep on a Ray cluster, one experiment a task, each in a clone of the committed repository.

    python examples/ray/sweep.py cells.txt

`cells.txt` as for examples/slurm/array.sbatch: on every line a name and the settings that differ. The repository and
the clones have to be in folders that all machines share; a task whose process or machine dies is started again, there.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import ray


def run_cell(repository: str, commit: str, folder: str, cell: list[str]) -> str:
    """Run one experiment; `cell` is its name and its settings."""
    environment = os.environ | {"PATH": f"{repository}/.venv/bin{os.pathsep}{os.environ['PATH']}"}
    script = f"{repository}/examples/cell.sh"
    subprocess.run(["bash", script, repository, commit, folder, *cell], env=environment, check=True)
    return cell[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--clones", type=Path, default=Path("../clones"), help="default: %(default)s")
    parser.add_argument("--gpus", type=float, default=1, help="of one experiment (default: %(default)s)")
    parser.add_argument("--retries", type=int, default=3, help="of an experiment (default: %(default)s)")
    options = parser.parse_args()
    cells = [line.split() for line in options.cells.read_text(encoding="utf-8").splitlines() if line.strip()]
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    clones = options.clones.resolve() / commit[:12]

    ray.init()  # the cluster of RAY_ADDRESS, or this machine
    task = ray.remote(num_gpus=options.gpus, max_retries=options.retries, retry_exceptions=True)(run_cell)
    waiting = {task.remote(str(Path.cwd()), commit, str(clones / cell[0]), cell): cell[0] for cell in cells}
    failed = []
    while waiting:
        [done], _ = ray.wait(list(waiting))
        name = waiting.pop(done)
        try:
            ray.get(done)
            print(f"{name}: done", flush=True)
        except ray.exceptions.RayError as error:
            print(f"{name}: failed: {error}", file=sys.stderr, flush=True)
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
