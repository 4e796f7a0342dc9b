#!/usr/bin/env bash
# Many edits, one after the other; a failing one stops no other. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
Usage: scripts/batch.sh JOBS_DIR [OUT_DIR] [-- options for every job]

Runs scripts/edit.sh on every sub-folder of JOBS_DIR, in the order of their names. A job is

  video.mp4 (.mov, .mkv, .webm)     the source video
  box.txt, clicks.txt or mask/      the box X,Y,W,H in pixels of the video; or points to follow, a
                                    line FRAME,X,Y,+ or FRAME,X,Y,- each; or a folder of masks
  edited.png (.jpg, .jpeg, .webp)   the edited first frame
  keyframes/N.png (…)               more edited frames, N the frame's number     (optional)
  caption.txt, edited_caption.txt   what the source and the edit show            (optional)
  options.txt                       more options of edit.sh, one a line, such as (optional)
                                      --frames 17
                                      --set inference.steps=20
                                    the rest of a line is the value, without quotes; # comments

JOB.mp4, JOB.log and JOB.work (the workspace) go into OUT_DIR; by default JOBS_DIR-out. Paths in
options are relative to where batch.sh was started. A job's own options win over those for every
job. Run it again to continue where it stopped.

Exit status: 0 all jobs done, 1 some failed, 2 wrong arguments, 130 interrupted.

Example
  scripts/batch.sh jobs results -- --base configs/NAME.toml
HELP
}

fail() {
    echo "batch.sh: $1" >&2
    exit 2
}

# Prints the one existing file among: $1 (what it is), $2... (its possible names).
one_of() {
    local what=$1 candidate found=()
    shift
    for candidate in "$@"; do
        [[ ! -f $candidate ]] || found+=("$candidate")
    done
    ((${#found[@]} == 1)) || {
        echo "batch.sh: expected one $what, found ${#found[@]} (of ${*##*/})" >&2
        return 1
    }
    printf '%s\n' "${found[0]}"
}

# Fills the array `call` with edit.sh's arguments for the job in folder $1, its output $2.
collect() {
    local job=$1 output=$2 video edited image frame option value
    video=$(one_of video "$job"/video.{mp4,mov,mkv,webm}) || return
    edited=$(one_of "edited frame" "$job"/edited.{png,jpg,jpeg,webp}) || return
    local places=()
    for option in box.txt clicks.txt mask; do
        [[ ! -e $job/$option ]] || places+=("$option")
    done
    case ${places[*]} in
        mask) call=("$video" "$edited" "$output" --mask "$job/mask") ;;
        box.txt) call=("$video" "$(tr -d '[:space:]' <"$job/box.txt")" "$edited" "$output") ;;
        clicks.txt)
            call=("$video" "$edited" "$output")
            while read -r value || [[ -n $value ]]; do
                [[ -z $value || $value == \#* ]] || call+=(--click "$value")
            done < <(tr -d '\r' <"$job/clicks.txt")
            ;;
        *)
            echo "batch.sh: expected one of box.txt, clicks.txt and the folder mask" >&2
            return 1
            ;;
    esac
    call+=(--workspace "${output%.mp4}.work" "${common[@]}")
    [[ ! -f $job/caption.txt ]] || call+=(--caption "$(<"$job/caption.txt")")
    [[ ! -f $job/edited_caption.txt ]] || call+=(--edited-caption "$(<"$job/edited_caption.txt")")
    for image in "$job"/keyframes/*; do
        frame=$(basename "${image%.*}")
        call+=(--keyframe "$frame=$image")
    done
    [[ -f $job/options.txt ]] || return 0
    while read -r option value || [[ -n $option ]]; do
        [[ -n $option && $option != \#* ]] || continue
        call+=("$option")
        [[ -z $value ]] || call+=("$value")
    done < <(tr -d '\r' <"$job/options.txt")
}

# Runs the job in folder $1 with output $2; its status is edit.sh's.
run_job() {
    local call=()
    collect "$1" "$2" || return
    bash "$scripts/edit.sh" "${call[@]}" </dev/null
}

# The last thing a log says, also when progress bars were drawn over one another.
last_line() { tr '\r' '\n' <"$1" | awk 'NF { last = $0 } END { print last }'; }

print_summary() {
    printf '\n%-24s %-7s %8s  %s\n' job result seconds "output, or what went wrong"
    ((${#summary[@]} == 0)) || printf '%-24s %-7s %8s  %s\n' "${summary[@]}"
}

scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
folders=() common=()
while (($#)); do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --) shift && common=("$@") && break ;;
        -*) fail "unknown option $1: options for every job come after -- (see --help)" ;;
        *) folders+=("$1") && shift ;;
    esac
done
((${#folders[@]} == 1 || ${#folders[@]} == 2)) || fail "expected JOBS_DIR [OUT_DIR] (see --help)"
[[ -d ${folders[0]} ]] || fail "no such folder: ${folders[0]}"
jobs_dir=$(cd -- "${folders[0]}" && pwd)
out_dir=${folders[1]:-$jobs_dir-out}
shopt -s nullglob
jobs=("$jobs_dir"/*/)
((${#jobs[@]})) || fail "no job (no sub-folder) in $jobs_dir"
mkdir -p "$out_dir"

summary=() failed=0
for job in "${jobs[@]}"; do
    name=$(basename "$job")
    output=$out_dir/$name.mp4 log=$out_dir/$name.log
    echo "batch.sh: $name (log: $log)"
    started=$SECONDS status=0
    (run_job "${job%/}" "$output") >"$log" 2>&1 || status=$?
    if ((status == 0)); then
        summary+=("$name" ok "$((SECONDS - started))" "$output")
    else
        failed=1
        summary+=("$name" failed "$((SECONDS - started))" "$(last_line "$log")")
    fi
    ((status != 130)) || { print_summary && exit 130; }
done
print_summary
exit "$failed"
