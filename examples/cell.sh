#!/usr/bin/env bash
# One experiment of a sweep in a clone of its own, with what is computed already pulled from the DVC remote:
#   cell.sh REPOSITORY COMMIT FOLDER NAME KEY=VALUE ...
# Its result goes back as a DVC experiment and to the DVC remote. Killed, the same command goes on in the same folder.
set -euo pipefail
repository=$1 commit=$2 folder=$3 name=$4
shift 4

mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock" # what an earlier try left running, for it was not the one that was killed, ends first
flock 9

if [ ! -d "$folder" ]; then
  rm -rf "$folder.new"
  git clone --quiet --no-checkout "$repository" "$folder.new"
  git -C "$folder.new" checkout --quiet --detach "$commit"
  if [ -f "$repository/.dvc/config.local" ]; then # the remote's address and credentials, which git does not carry
    cp "$repository/.dvc/config.local" "$folder.new/.dvc/"
  fi
  # Whole, before anything runs: --pull below would fetch single files of it, and a second try then miss the others.
  (cd "$folder.new" && dvc pull prepare)
  mv "$folder.new" "$folder"
fi
cd "$folder"
git checkout --quiet --force "$commit" -- params.yaml # -S of an earlier try

settings=()
for setting in "$@"; do
  settings+=(-S "$setting")
done
# --pull --allow-missing: models of stages that do not run are neither computed nor copied here.
dvc exp run --pull --allow-missing --name "$name" "${settings[@]}"
dvc exp push --force --run-cache origin "$name"
