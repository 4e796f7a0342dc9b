#!/usr/bin/env bash
# One video, one box, one edited frame: out comes the edited clip. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
Usage: scripts/edit.sh VIDEO X,Y,W,H EDITED_FRAME OUT.mp4 [options]
       scripts/edit.sh VIDEO --mask PATH EDITED_FRAME OUT.mp4 [options]
       scripts/edit.sh VIDEO --click FRAME,X,Y,+ EDITED_FRAME OUT.mp4 [options]

Carries an edit of a video's first frame through the clip: prepares the workspace, trains on this
one clip, and writes the edited video.

  VIDEO           the source video, or a folder of images
  X,Y,W,H         the box of the edit, in pixels of the video; --mask or --click takes its place
  EDITED_FRAME    the clip's first frame, edited: png, jpg or webp, in the video's size or the
                  workspace's
  OUT.mp4         the edited video

Options (anywhere on the line; a lone -- is ignored)
  --mask PATH             a folder of mask images, or a mask video, instead of the box
  --click FRAME,X,Y,+     a point of the object, which is followed through the clip instead of the
                          box; - instead of + is a point beside it; repeatable (maskora track)
  --keyframe N=IMAGE      another edited frame: frame N of the workspace; repeatable
  --base FILE             the configuration to start from (configs/NAME.toml)
  --frames N              length of the clip, 4k+1
  --size WxH              size of the workspace
  --caption TEXT          what the source shows
  --edited-caption TEXT   what the edit shows
  --set TABLE.KEY=VALUE   any key of the configuration; repeatable
  --workspace DIR         where the work is kept (default: OUT.work)
  --help                  this text

Run it again with the same workspace to continue: prepare is skipped then, so the box, the mask,
--base, --frames, --size and the captions stay as they were, and --set counts for that run.
The environment variable PYTHON names another interpreter than .venv's.

Example
  scripts/edit.sh walk.mp4 180,60,140,400 walk_red.png walk_red.mp4 --frames 17
HELP
}

fail() {
    echo "edit.sh: $1" >&2
    exit 2
}

say() { echo "edit.sh: $1"; }

places=() prepare_options=() settings=() keyframes=() clicks=()
mask="" workspace=""

# Sorts the command line into the variables above.
read_arguments() {
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --) shift && continue ;;
            --mask | --click | --workspace | --keyframe | --set | \
                --base | --frames | --size | --caption | --edited-caption)
                (($# >= 2)) || fail "$1 needs a value (--help lists the options)"
                read_option "$1" "$2"
                shift 2
                ;;
            --*=*)
                local name=${1%%=*} value=${1#*=}
                shift
                set -- "$name" "$value" "$@"
                ;;
            -*) fail "unknown option $1 (--help lists the options)" ;;
            *) places+=("$1") && shift ;;
        esac
    done
}

read_option() {
    case $1 in
        --mask) mask=$2 ;;
        --click) clicks+=("$1" "$2") ;;
        --workspace) workspace=$2 ;;
        --keyframe) keyframes+=("$2") ;;
        --set) settings+=("$1" "$2") ;;
        *) prepare_options+=("$1" "$2") ;;
    esac
}

check_image() {
    [[ -f $1 ]] || fail "no such image: $1"
    case ${1,,} in
        *.png | *.jpg | *.jpeg | *.webp) ;;
        *) fail "not a png, jpg or webp image: $1" ;;
    esac
}

check_keyframe() {
    [[ $1 =~ ^[0-9]+=.+$ ]] || fail "--keyframe is written N=IMAGE (24=frame24.png), not $1"
    check_image "${1#*=}"
}

# The edited image $2 becomes frame $1 of the workspace, in place of an earlier one.
place_edit() {
    local stem extension=${2##*.}
    stem=$(printf '%s/edits/%05d' "$workspace" "$((10#$1))")
    mkdir -p "$workspace/edits"
    [[ $2 -ef $stem.${extension,,} ]] && return
    rm -f "$stem".{png,jpg,jpeg,webp}
    cp -- "$2" "$stem.${extension,,}"
}

read_arguments "$@"
expected=4 wanted="VIDEO X,Y,W,H EDITED_FRAME OUT.mp4"
[[ -z $mask ]] || { expected=3 wanted="VIDEO EDITED_FRAME OUT.mp4 beside --mask"; }
((${#clicks[@]} == 0)) || { expected=3 wanted="VIDEO EDITED_FRAME OUT.mp4 beside --click"; }
[[ -z $mask ]] || ((${#clicks[@]} == 0)) || fail "--mask and --click: give one of them"
((${#places[@]} == expected)) || fail "expected $wanted, got ${#places[@]} of them (see --help)"

video=${places[0]} edited=${places[-2]} output=${places[-1]}
region=(--mask "$mask")
if ((${#clicks[@]})); then
    region=()
elif [[ -z $mask ]]; then
    box=${places[1]}
    [[ $box =~ ^[0-9]+(,[0-9]+){3}$ ]] || fail "the box is written X,Y,W,H in pixels, not $box"
    region=(--box "$box")
elif [[ ! -e $mask ]]; then
    fail "no such mask: $mask"
fi
[[ -e $video ]] || fail "no such video: $video"
[[ ${output,,} == *.mp4 ]] || fail "the output is an .mp4 file, not $output"
check_image "$edited"
for keyframe in "${keyframes[@]}"; do check_keyframe "$keyframe"; done
workspace=${workspace:-${output%.*}.work}

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=python3
[[ ! -x $repository/.venv/bin/python ]] || python=$repository/.venv/bin/python
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
maskora=("${PYTHON:-$python}" -m maskora)

run_settings=()
if [[ -f $workspace/edit.toml ]]; then
    say "$workspace is prepared already: continuing with it"
    run_settings=("${settings[@]}")
else
    say "preparing $workspace"
    "${maskora[@]}" prepare "$video" "$workspace" "${region[@]}" \
        "${prepare_options[@]}" "${settings[@]}"
fi
if ((${#clicks[@]})) && [[ ! -f $workspace/masks/masks.json ]]; then
    say "following what was clicked"
    "${maskora[@]}" track "$workspace" "${clicks[@]}" "${run_settings[@]}"
fi

place_edit 0 "$edited"
for keyframe in "${keyframes[@]}"; do place_edit "${keyframe%%=*}" "${keyframe#*=}"; done

say "training"
"${maskora[@]}" train --config "$workspace/edit.toml" --stage all --resume "${run_settings[@]}"
say "making $output"
"${maskora[@]}" infer --config "$workspace/edit.toml" --output "$output" "${run_settings[@]}"
say "done: $output"
