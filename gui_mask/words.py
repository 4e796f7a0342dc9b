"""What a person reads in the window, in one place: to be reviewed, or translated, as a whole.

A dict's keys are names in the code and in edit.toml, and stay.
"""

from collections.abc import Sequence

# All pages.
INTRODUCTION = "Open a project, or make a new one from a video."
TABS = {"open": "1 · Open", "mask": "2 · Mask", "edit": "3 · Edit", "run": "4 · Run"}
FAILED = "That did not work"
NOT_OPEN = "open a project first"
FROM, WITH_MODEL, EDIT_EACH_SHOT = "from", "model", "edit a frame of each"
FOREIGN = (
    "this is maskora, and speaks only to its own page: open it by the whole address that it has "
    "printed, with its token"
)
USED = (
    "this address lets one browser in, once and within a minute: open the one that maskora has "
    "printed. If you see this at once after a start, on a machine that others use, end maskora "
    "gui and start it with --no-browser"
)
CLOSED = "this project is no longer open here: load the page again"

# Open.
OPEN_PROJECT = "Open a project"
RECENT = "Recent projects"
PROJECT_FOLDER = "Project folder"
OPEN = "Open"
NEW_PROJECT = "New project from a video"
VIDEO = "A video from your computer"
VIDEO_PATH = "Or type a path"
LOAD_VIDEO = "Load video"
FIRST_FRAME = "First frame"
START_FRAME = "Start frame"
EVERY_NTH = "Use every Nth frame"
FRAMES = "Frames"
FRAMES_INFO = "more than 49 are generated in several segments"
WHOLE_CLIP = "Whole clip"
SIZE = "Size"
SIZE_INFO = "or a custom size, WIDTHxHEIGHT (multiples of 16)"
SIZES = [
    ("Keep aspect ratio (about 832×480)", "auto"),
    ("Keep aspect ratio (about 1280×720)", "auto:1280x720"),
    ("Keep aspect ratio (about 480×272)", "auto:480x272"),
    ("Keep aspect ratio (about 256×256)", "auto:256x256"),
]
PRESET = "Model preset"
TRIAL = "for trying maskora out only: small, fast, and no quality"
LOCATION = "Model location"
TASK = "Task"
TASKS = [("Change something", "change"), ("Remove something", "remove"), ("Add something", "add")]
PLACE = "Where it is added (X,Y,W,H, in pixels of the video)"
PLACE_INFO = "or click two opposite corners in the first frame"
FOLLOW = "What it moves with"
FOLLOWS = [("The background", "background"), ("A thing in the video", "thing")]
POINT = "A point on that thing (X,Y)"
POINT_INFO = "or click it in the first frame, after the two corners"
TARGET = "Project folder"
CREATE = "Create project"
NO_PLACE = "where is it added? Click two opposite corners in the first frame"
NO_POINT = "what does it move with? Click the thing in the first frame"

# What a recent project needs next.
NO_MASK = "next: mark the object"
NO_EDIT = "next: edit the first frame"
NO_RESULT = "next: train and generate"
RUNNING = "running"
DONE = "finished"

# Mask.
MASK_GUIDE = (
    "Click the object, draw a box around it, or paint it with the brush. Right-click (or "
    "Shift-click) what does not belong to it. Track it through the clip, look at the frames, click "
    "again where it went wrong, and track once more."
)
SHAPE = "Edit region"
SHAPES = [
    ("Box (recommended)", "box"),
    ("Hull", "hull"),
    ("Tight: the object's outline", "tight"),
    ("Noisy", "noisy"),
    ("Full: the whole picture", "full"),
]
MARGIN, MARGIN_INFO = "Margin", "as a share of the box"
SMOOTHING, SMOOTHING_INFO = "Smoothing", "in frames"
SAVE_MASK = "Save mask"
REPLACE_PAINTED = "Replace the masks that I painted"
PAINTED = "The masks were painted by hand since they were made. Tick the box to replace them."
TRACKER = "Tracker"
TRACKERS = [("simple: no download, easy clips", "simple"), ("SAM2: needs a checkpoint", "sam2")]
CHECKPOINT, CHECKPOINT_INFO = "SAM2 checkpoint", "a hub id, a folder, or an original .pt file"
APPLY = "Apply"
TRACKED = "tracking finished"
BUG = "this ended with a bug, whose traceback is in the terminal; what was done before stays"
NO_ROOM = "the GPU's memory is too small for this: close what uses it, or take a smaller checkpoint"
NO_UNDO, NO_REDO = "there is nothing to undo", "there is nothing to redo"
IN_PAGE = "what was tracked is in this page only"
KEPT = "What you did is still in this page, and is written with the next thing that you do"
TRACKING_NOW = "the objects are being tracked right now: wait for it, or stop it"

# Run.
ESTIMATE = "Resource estimate"
COMMANDS = "Terminal commands"
MODEL = "Model"
KEEP_PRESET = "as in edit.toml"
PREVIEW, BOTH, TRAIN, GENERATE = "Preview", "Train and generate", "Train", "Generate"
STOP, STOP_AT_ONCE = "Stop", "Stop at once"
LOG = "Log"
NOTHING_YET = "Nothing was started here yet."
LOSS = "Loss"
STATUS = {
    "running": "Running", "stopping": "Stopping", "done": "Done", "failed": "Failed",
    "stopped": "Stopped", "lost": "Lost",
}  # fmt: skip
UNSAVED = "The mask on page 2 is not saved, and what you start here uses the saved one."
SAVE_AND_RUN = "Save mask and run"
RUN_ANYWAY = "Run with the saved mask"
PAINTED_UNSAVED = (
    "the saved masks were painted by hand: replace them on page 2, or run with them as they are"
)
COMPARE = "Before and after"
EDGE, TIME = "Where the right one begins", "Frame (click the picture to play or pause)"
FIRST_EDIT = "the first edit"

# The viewer: `$name` in viewer.html, `words.name` in viewer.js.
VIEWER = {
    "viewer": "mask viewer",
    "tools": "tools",
    "meaning": "what a click means",
    "frame": "frame",
    "frame_back": "one frame back",
    "frame_on": "one frame on",
    "to_play": "play",
    "to_pause": "pause",
    "an_object": "object",
    "a_new_object": "new object",
    "object": "Object",
    "new_object": "New object",
    "add_point": "Add point",
    "add_point_hint": "a point of the object (a plain click)",
    "remove_point": "Remove point",
    "remove_point_hint": "a point that is not of the object (right click, or Shift)",
    "box": "Box",
    "box_hint": "drag a rectangle around the object",
    "brush": "Brush",
    "brush_hint": "paint the object by hand (right button or Shift erases)",
    "eraser": "Eraser",
    "eraser_hint": "erase of the object by hand",
    "size": "Size",
    "name": "name",
    "name_hint": "what this object is called",
    "colour": "colour",
    "colour_hint": "the colour that this object is shown in, in this browser",
    "opacity": "Mask opacity",
    "redo": "Redo",
    "undo": "Undo",
    "clear_frame": "Clear frame",
    "clear_frame_hint": "take this frame's clicks, boxes and paint back",
    "remove_object": "Remove object",
    "remove_object_hint": "remove the chosen object from all frames",
    "open_first": "Open a project first.",
    "loading": "The frames are fetched …",
    "play": "Play",
    "pause": "Pause",
    "track": "Track whole clip",
    "track_hint": "from every click, forward and backward",
    "track_backward": "Track backward",
    "track_backward_hint": "from this frame to the start, whatever is shown here",
    "track_forward": "Track forward",
    "track_forward_hint": "from this frame to the end, whatever is shown here",
    "stop": "Stop",
    "region": "Edit region",
    "not_saved": "Mask not saved",
    "keys": "Keyboard and mouse",
    "working": "Working …",
    "doing_click": "Finding the object",
    "doing_box": "Finding the object",
    "doing_follow": "Beginning to track",
    "tracking": "Tracking, in frames",
    "about": "about",
    "left": "left",
    "last_time": "last time",
    "first_time": "the tracker is opened first, which takes some seconds",
    "drag_first": "drag a rectangle around the object",
    "no_frame": "this frame could not be fetched: is maskora still running?",
    "no_answer": "maskora does not answer: is it still running? What was done so far is in the "
    "project folder.",
}
VIEWER_KEYS = [
    ("click", "add a point of the object"),
    ("right-click, Shift-click", "remove: a point that is not of the object"),
    ("← →", "one frame back, one frame on"),
    ("Home, End", "first frame, last frame"),
    ("Space", "play or pause"),
    ("A, R, B", "add point, remove point, box"),
    ("P, E", "brush, eraser; right button or Shift erases"),
    ("[ ]", "a smaller, a larger brush"),
    ("N", "new object"),
    ("1 to 9", "choose an object"),
    ("T", "track the whole clip"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo, redo"),
    ("?", "show or hide this list"),
]


def inside_of(folders: Sequence[object]) -> str:
    """Which folders a path may lead into; a relative one counts from the first."""
    return f"inside {', '.join(map(str, folders))}" if folders else ""


def is_project(folder: object) -> str:
    """A new project's folder is one already."""
    return f"{folder} is a project already: choose another folder, or open that one"


def result_of(edit: str | None, made: str) -> str:
    """Whose result is shown, and since when it is there."""
    return f"Result of {f'edit {edit}' if edit else FIRST_EDIT}, made {made}"


# Run: presets, time, queue, previews and versions.
EFFORT = "How much work"
EFFORTS = {"draft": "Draft", "good": "Good", "best": "Best"}
OWN_EFFORT = "The settings are your own: none of these."
WHILE_TRAINING = "While training"
QUEUE = "Waiting for their turn"
ANOTHER = "another project"
LEAVE = "Take out"
QUEUED = "waits for its turn"
WORKS_NOW = "works now"
WORKS = {"preview": "preview", "train": "train", "infer": "generate", "both": "train and generate"}
VERSIONS = "Versions"
STAR, UNSTAR = "Call it the best", "No longer the best"
REMOVE, REMOVE_SURE = "Remove", "Remove this version from the disk, for good?"
COMPARE_IT = "Compare"
THE_VIDEO = "the video"
LEFT, RIGHT, VIEW = "Left", "Right", "View"
VIEWS = [("line", "under a line"), ("beside", "side by side"), ("difference", "difference")]
OTHER_VERSION = (
    "this version has gone, or another one has its place, since this page was drawn: choose the "
    "tab again to see those that there are"
)
WRONG = "This frame is wrong: touch it up"
WRONG_HINT = "the frame that is shown goes to page 3, as an edit of that frame"
NOT_MEASURED = "How long it takes is known once a step of each kind was taken on this machine."


def effort(name: str, motion: int, appearance: int, denoising: int) -> str:
    """What a preset does, with its steps; of a draft, nothing is trained."""
    if name == "draft":
        return (
            f"Nothing is trained: the motion is taken from the clip, in {denoising} denoising "
            f"steps. A first idea; the look may wear off."
        )
    why = {
        "good": "as the model's own configuration has it.",
        "best": "twice the training, and half as many denoising steps again. It takes about twice "
        "as long; whether you see it depends on the clip.",
    }[name]
    return (
        f"A LoRA is trained in {motion} steps ({appearance} more where later frames are edited), "
        f"and the clip generated in {denoising}: {why}"
    )


def takes(seconds: float) -> str:
    """How long a whole edit takes on this machine."""
    return f"Train and generate: {duration(seconds)} on this machine, and the time for loading."


def time_left(seconds: float) -> str:
    """How long a job still takes."""
    return f"{duration(seconds)} of computing left in all"


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return "about a minute" if seconds >= 45 else "less than a minute"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def after_step(stage: str, step: int) -> str:
    """Under a preview: the stage, and the step after which it was made."""
    return f"{stage}, step {step}"


def version(place: int, is_newest: bool) -> str:
    """A version's name."""
    return f"Version {place}{', the newest' if is_newest else ''}"


def changed(changes: str) -> str:
    """What is other than in the version before."""
    return f"changed: {changes}"


def size(nbytes: int) -> str:
    """Bytes as people say them."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{max(0.1, nbytes / 1e6):.1f} MB"


def disk(use: dict[str, int]) -> str:
    """What a project takes of the disk, and for what."""
    parts = ", ".join(f"{name} {size(nbytes)}" for name, nbytes in use.items())
    return f"This project takes {size(sum(use.values()))} of the disk: {parts}."


# The edit page.
EDIT_GUIDE = (
    "Change what lies inside the region of the first frame: here, or download it, change it in any "
    "image editor, and bring it back. For a look that evolves, do the same with a later frame."
)
EDIT = "Edit"
EDIT_INFO = "another name begins a further edit of the clip: its motion need not be trained anew"
THE_EDIT = "the edit"
UPLOAD_EDITED = "Upload edited frames"
UPLOAD_INFO = (
    "Or drop pictures anywhere on this page, several at once: their names say which frames they "
    "are (00012.png). A picture that is dropped on the frame is placed in it."
)
FRAME = "Frame"
SOURCE_SHOWS = "What the video shows"
SOURCE_CAPTION = "Caption of the source"
EDITED_FRAMES = "Edited frames"
NONE_YET = "None yet; the first frame, 0, is needed."
KEEP_CAPTION, WRITE_CAPTION = "Keep this caption", "Write it for me"
CAPTION_KEPT, CAPTION_GONE = "The caption is kept.", "The caption is removed."
CAPTIONER_WRITES = "the captioner writes it in time"
AS_IN_FILE = "as in edit.toml: "
NO_MASKS_YET = "there are no masks yet, so what changed outside of them is not known"
SAME_INSIDE = "inside the mask it is the same as the source."
SAME_OUTSIDE = "outside the mask it is the source, or close to it"

# The easel: `$name` in easel.html, `words.name` in easel.js.
EASEL = {
    "easel": "frame editor",
    "tools": "editing tools",
    "tool": "tool",
    "recolour": "Recolour",
    "recolour_hint": "hue, saturation and brightness",
    "swap": "Replace colour",
    "swap_hint": "a picked colour becomes another",
    "paint": "Paint",
    "paint_hint": "a brush",
    "restore": "Eraser",
    "restore_hint": "brings the video's frame back",
    "erase": "Remove",
    "erase_hint": "fill from what is around",
    "place": "Place picture",
    "place_hint": "a hat, a logo",
    "copy": "Copy frame",
    "copy_hint": "from another frame, or from the result",
    "carry": "Carry the look",
    "carry_hint": "the trained model brings the look of an edited frame here",
    "instruct": "Ask a model",
    "instruct_hint": "an image model does it",
    "undo": "Undo",
    "redo": "Redo",
    "keys": "Keyboard and mouse",
    "before": "Before",
    "before_hint": "hold it down",
    "hue": "Hue",
    "saturation": "Saturation",
    "brightness": "Brightness",
    "on": "On",
    "on_object": "the object",
    "on_region": "all of the region",
    "apply": "Apply",
    "from": "From",
    "to": "To",
    "pick_hint": "click the picture to pick it",
    "tolerance": "Tolerance",
    "colour": "Colour",
    "alt_hint": "Alt-click picks",
    "size": "Size",
    "opacity": "Opacity",
    "erase_or": "paint over what is to go, or",
    "erase_object": "Remove the whole object",
    "place_file": "picture to place",
    "width": "Width",
    "turn": "Turn",
    "blend": "Blend",
    "normal": "normal",
    "multiply": "multiply",
    "screen": "screen",
    "frame": "Frame",
    "as_edited": "as edited",
    "copy_it": "Copy it",
    "from_result": "Take it from the result",
    "from_result_hint": "the start of a keyframe that mends it",
    "carry_about": "the look of the edited frame before this one, made for this frame by the "
    "trained model: a start, to be touched up",
    "carry_it": "Carry it here",
    "not_trained": "nothing is trained yet: train first (page 4)",
    "later_frame": "choose a later frame below: frame 0 is where a look comes from",
    "instruction": "instruction",
    "instruction_example": "make the shirt red and checked",
    "candidates": "Candidates",
    "candidate": "candidate",
    "take_this": "take this one",
    "seed": "Seed",
    "reference": "Reference",
    "make_candidates": "Make candidates",
    "no_editor": "no model yet: name one in edit.toml, [editor] model",
    "open_first": "Open a project first.",
    "loading": "The frames are fetched …",
    "region": "region that is edited",
    "step": "step",
    "step_of": "of",
    "as_before": "as before",
    "unchanged": "nothing changed here yet",
    "choose_picture": "choose a picture first",
    "no_picture": "is no picture that a browser can read",
    "working": "Working …",
    "no_answer": "maskora does not answer: is it still running? What was done so far is in the "
    "project folder.",
}
EASEL_KEYS = [
    ("drag", "paint, erase or move, as the tool says"),
    ("Alt-click", "pick a colour of the picture"),
    ("wheel, Shift+wheel", "a placed picture's size, its turn"),
    ("[ ]", "a smaller, a larger brush"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo, redo"),
    ("?", "show or hide this list"),
]

# What a page says while something goes on.
FIRST_TIME = "the first time on this machine: how long it takes is not known yet"
DOING = {
    "open": "The project is opened",
    "carry": "The base is loaded, and makes this frame with the trained look",
    "instruct": "The model is loaded, and makes the candidates",
    "caption": "The captioner is loaded, and writes what the picture shows",
    "video": "The video is looked at",
    "create": "The video is cut into frames",
    "save": "The mask is made and written",
    "upload": "The edited frame is read and compared with the video",
}


def doing(action: str, last: float | None) -> str:
    """What goes on, and how long it took last time."""
    took = f"last time {duration(last)}" if last else FIRST_TIME
    return f"{DOING[action]} … ({took})"


def download(frame: int) -> str:
    """A link to a frame."""
    return f"Download frame {frame}"


def download_at(size: str) -> str:
    """A link to the same frame as the original video has it."""
    return f"Download it at {size}"


def taken(frames: Sequence[int], folder: object) -> str:
    """Which edited frames were uploaded."""
    if len(frames) == 1:
        return f"Frame {frames[0]} is taken, and kept in {folder}"
    return f"Frames {', '.join(map(str, frames))} are taken, and kept in {folder}"


def beside_source(frame: int) -> str:
    """Above an edited frame and its source."""
    return f"Frame {frame}: as in the video, and edited"


def caption_of(frame: int) -> str:
    """The label of an edited frame's caption."""
    return f"Caption of edited frame {frame}"


def remove_edited(frame: int) -> str:
    """A button."""
    return f"Remove edited frame {frame}"


def saved_in(folder: object) -> str:
    """The mask is saved."""
    return f"Saved in {folder}."


def tracked_by(kind: str) -> str:
    """Which tracker is used from now on."""
    return f"Tracker: {kind}."


def clip(frames: int, size: str, rate: float) -> str:
    """What the frames of a project are."""
    return f"{frames} frames of {size} at {rate:.3g} fps"


def stopped_after(done: int, total: int) -> str:
    """Tracking was stopped."""
    return f"stopped after {done} of {total} steps; what is done stays"


def long_name(most: int) -> str:
    """An object's name is too long."""
    return f"a name has at most {most} letters"


def no_frame(frame: int, frames: int) -> str:
    """A frame that the clip has not."""
    return f"frame {frame}: the clip has frames 0 to {frames - 1} only"


def no_object(most: int) -> str:
    """An object's number cannot be."""
    return f"objects are numbered 1 to {most}"


def not_known(name: object) -> str:
    """A page of another version asks for something."""
    return f"the page asked for {name!r}, which is nothing: load it again"


def no_number(key: str) -> str:
    """A page sends something else than a number."""
    return f"the page sent no number as {key}: load it again"


def no_whole_number(key: str) -> str:
    """A page sends something else than a whole number."""
    return f"the page sent no whole number as {key}: load it again"


def no_stroke(where: str, why: str) -> str:
    """A stroke of the mask's brush cannot be."""
    return f"this stroke cannot be drawn: {where}: {why}"


def no_step(where: str, why: str) -> str:
    """A step of the edit page cannot be."""
    return f"this cannot be done: {where}: {why}"


def no_edited_frame(folder: object, frame: int) -> str:
    """What is to be removed is not there."""
    return f"{folder} holds no edited frame {frame}"


def no_image(image: object, root: object) -> str:
    """A caption is for something else."""
    return f"{image} is no image of {root}"


def no_mask_in(frame: int) -> str:
    """An edited frame without a region."""
    return f"frame {frame} has no mask, so nothing of this edit would be used"


def differs_outside(share: float, mean: float) -> str:
    """An edited frame changes what lies outside the region."""
    return (
        f"outside the mask {share:.0%} of it differs from the source (red; mean {mean:.1f} of 255 "
        f'levels); the outside is taken from the source, unless [appearance] spill is "keep"'
    )


def other_clips_frame(name: str, frame: int, frames: int) -> str:
    """An uploaded picture's name says a frame that the clip has not."""
    return f"{name} is frame {frame} by its name, and {frames - 1} is the last one: rename it"


def which_frame(name: str) -> str:
    """One of several uploaded pictures has no number."""
    return f"{name}: which frame is it? Give it the frame's number, as in 00012.png"


def both_frame(one: str, other: str, frame: int) -> str:
    """Two uploaded pictures are of one frame."""
    return f"{one} and {other} are both frame {frame}: keep one"
