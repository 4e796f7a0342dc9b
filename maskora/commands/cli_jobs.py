"""The commands that run others: edit and batch.

They read their lines themselves: options may stand anywhere, a mistake is told in one line (the
last line of a job's log is what the table of `batch` shows), and -- is what ends the folders.
"""

from typing import Any

import typer
from typer.core import TyperCommand

EDIT_HELP = """\
Usage: maskora edit VIDEO X,Y,W,H EDITED_FRAME OUT.mp4 [options]
       maskora edit VIDEO --mask PATH EDITED_FRAME OUT.mp4 [options]
       maskora edit VIDEO --click FRAME,X,Y,+ EDITED_FRAME OUT.mp4 [options]

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

Example
  maskora edit walk.mp4 180,60,140,400 walk_red.png walk_red.mp4 --frames 17
"""
BATCH_HELP = """\
Usage: maskora batch JOBS_DIR [OUT_DIR] [-- options for every job]

Runs maskora edit on every sub-folder of JOBS_DIR, in the order of their names. A job is

  video.mp4 (.mov, .mkv, .webm)     the source video
  box.txt, clicks.txt or mask/      the box X,Y,W,H in pixels of the video; or points to follow, a
                                    line FRAME,X,Y,+ or FRAME,X,Y,- each; or a folder of masks
  edited.png (.jpg, .jpeg, .webp)   the edited first frame
  keyframes/N.png (…)               more edited frames, N the frame's number     (optional)
  caption.txt, edited_caption.txt   what the source and the edit show            (optional)
  options.txt                       more options of edit, one a line, such as    (optional)
                                      --frames 17
                                      --set inference.steps=20
                                    the rest of a line is the value, without quotes; # comments

Texts are UTF-8. JOB.mp4, JOB.log and JOB.work (the workspace) go into OUT_DIR; by default
JOBS_DIR-out. Paths in options are relative to where batch was started. A job's own options win over
those for every job. Run it again to continue where it stopped.

Exit status: 0 all jobs done, 1 some failed, 2 wrong arguments, 130 interrupted.

Example
  maskora batch jobs results -- --base configs/NAME.toml
"""


class OwnLine(TyperCommand):
    """A command that gets its line as it was typed; --help prints `text`."""

    text: str

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep every word, but for --help."""
        if self.wants_help(args):
            typer.echo(self.text, nl=False)
            ctx.exit()
        ctx.args = list(args)
        return ctx.args

    def wants_help(self, args: list[str]) -> bool:
        """Whether --help is asked of this command."""
        return "--help" in args or "-h" in args


class EditCommand(OwnLine):
    """maskora edit"""

    text = EDIT_HELP


class BatchCommand(OwnLine):
    """maskora batch"""

    text = BATCH_HELP

    def wants_help(self, args: list[str]) -> bool:
        """What stands after -- is for the jobs."""
        return super().wants_help(args[: args.index("--")] if "--" in args else args)


def edit(context: typer.Context) -> None:
    """Prepare, train and infer in one line: a video, a box and an edited frame in, a clip out."""
    from maskora.commands.edit import edit_video

    edit_video(context.args)


def batch(context: typer.Context) -> None:
    """Run edit on every folder of a folder of jobs; a failing one stops no other."""
    from maskora.commands.batch import run_batch

    run_batch(context.args)
