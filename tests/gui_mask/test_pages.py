"""What the pages' handlers answer, without a browser."""

import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from gui_mask import jobs, words
from gui_mask.jobs import Job, JobState, identify, store
from gui_mask.pages.opening import OpeningPage, added, box_between
from gui_mask.pages.running import RunPage, plan_html
from gui_mask.presets import effort_of, steps_of
from gui_mask.results import act
from gui_mask.server import edit_name
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.videos import BASES, base_config, is_trial
from gui_mask.waiting import Ticket, changing_queue, queue_file, read_queue
from maskora.app.versions import find_versions
from maskora.app.workspace import Workspace
from maskora.config import load_config, set_values
from maskora.errors import UserError
from maskora.masks.files import read_labels
from maskora.masks.prompts import Click

PREVIEWS, RESULT, QUEUE = 3, 4, 5  # among what the run page shows
BALL = Click(0, 24.5, 54.5)  # its centre in frame 0, at half size


@pytest.fixture
def opening(state: AppState) -> OpeningPage:
    with gr.Blocks(), gr.Tabs(), gr.Tab("open") as tab:
        return OpeningPage(state, lambda root: [root], [gr.State("")], tab)


@pytest.fixture
def run(state: AppState) -> RunPage:
    with gr.Blocks(), gr.Tabs(), gr.Tab("run") as tab:
        return RunPage(state, gr.State(""), gr.Dropdown(), tab)


@pytest.fixture
def session(state: AppState, workspace: Workspace, rolling: Path) -> Session:
    """An open workspace whose video may be used."""
    video = shutil.copy(rolling, workspace.root)
    source = workspace.read_source().model_copy(update={"origin": str(video)})
    workspace.write_source(source)
    return state.open(str(workspace.root))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was started: the commands themselves are other tests' matter."""
    started: list[str] = []

    def start(workspace: Workspace, what: str, edit: str | None) -> JobState | None:
        started.append(what)
        return jobs.read(workspace)

    monkeypatch.setattr("gui_mask.pages.running.jobs.start", start)
    return started


def uploaded(state: AppState, file: Path) -> str:
    """A file as gradio keeps an upload."""
    folder = state.scratch / ("0a" * 32)
    folder.mkdir(exist_ok=True)
    return str(shutil.copy(file, folder))


def press(page: OpeningPage, found: list[Any], **changes: Any) -> Any:
    """Press "Create project" with what the page shows after a video was found."""
    clip, target = found[1], found[4]
    given = {
        "start": 0, "every": 1, "frames": 9, "whole": False, "size": "160x96",
        "base": "wan2.1-i2v-480p", "model": "", "target": target, "task": "change", "place": "",
        "follow": "background", "point": "",
    } | changes  # fmt: skip
    return page.make_workspace(clip, **given)


def prepared(page: OpeningPage, found: list[Any], **changes: Any) -> Workspace:
    """The project that is made so."""
    press(page, found, **changes)
    return Workspace(Path(changes.get("target", found[4])))


def test_a_refused_upload_leaves_room_for_the_next(
    opening: OpeningPage, state: AppState, tmp_path: Path, rolling: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(state.scratch))
    (tmp_path / "notes.mp4").write_text("buy milk\n" * 50)
    base = next(iter(BASES))
    refusal = opening.find_upload(uploaded(state, tmp_path / "notes.mp4"), base)
    assert refusal[opening.upload] is None
    assert re.match(r"<span role=.alert.>notes\.mp4", refusal[opening.video_wrong].value)
    found = opening.find_upload(uploaded(state, rolling), base)
    assert (found[0], found[-1].visible) == (None, False)


def test_a_presets_own_size_and_frames_are_offered(opening: OpeningPage, rolling: Path) -> None:
    clip = SimpleNamespace(longest=lambda start, every: 200)
    frames, size, _, model = opening.take_base(clip, 0, 1, "wan2.1-i2v-720p")
    assert (frames.value, size) == (49, "auto:1280x720")
    assert model.placeholder == base_config("wan2.1-i2v-720p").model.path
    frames, size, about, _ = opening.take_base(clip, 0, 1, "tiny")
    assert (frames.value, size) == (13, "auto:256x256")
    assert about.info == words.TRIAL
    assert [name for name in BASES if is_trial(name)] == ["miniature", "tiny"]


def test_every_presets_size_has_words(opening: OpeningPage) -> None:
    sizes = {base_config(name).video.size for name in BASES}
    assert {size for size in sizes if size.startswith("auto")} <= {
        value for _, value in words.SIZES
    }


@pytest.fixture
def found(opening: OpeningPage, state: AppState, rolling: Path, tmp_path: Path) -> list[Any]:
    shutil.copy(rolling, tmp_path)
    answer = opening.find_typed(str(tmp_path / "ball.mp4"), next(iter(BASES)))
    assert isinstance(answer, list)
    return answer


def test_a_whole_clip_and_its_task(
    opening: OpeningPage, found: list[Any], state: AppState, tiny_model: Path, tmp_path: Path
) -> None:
    model = str(shutil.copytree(tiny_model, tmp_path / "model"))
    made = prepared(opening, found, frames=5, whole=True, task="remove", model=model)
    config = load_config(made.config)
    assert (config.video.frames, config.motion.task) == (9, "remove")
    refused = press(opening, found, target=str(made.root))
    assert "is a project already" in refused[opening.target_wrong].value
    assert "--overwrite" not in refused[opening.target_wrong].value


def test_what_is_wrong_is_said_beside_each_field(
    opening: OpeningPage, found: list[Any], state: AppState
) -> None:
    wrong = {"task": "add", "model": "/etc/model", "target": "/etc/ws"}
    refused = press(opening, found, **wrong)
    for field, says in (
        (opening.place_wrong, "two opposite corners"), (opening.model_wrong, "--allow DIR"),
        (opening.target_wrong, "--allow DIR"),
    ):  # fmt: skip
        assert refused[field].visible
        assert says in refused[field].value
    assert not refused[opening.make_wrong].visible
    refused = press(opening, found, size="1x1")
    assert [one.visible for one in refused.values()] == [False, False, False, True]
    assert "size" in refused[opening.make_wrong].value
    opening.enter = lambda text: [state.open(text).token]
    *_, wrong_root = opening.open_typed("/etc/ws")
    assert "--allow DIR" in wrong_root.value


def test_something_is_added_where_it_was_clicked(
    opening: OpeningPage, found: list[Any], tiny_model: Path, tmp_path: Path
) -> None:
    def click(at: tuple[int, int], known: list[Any]) -> list[Any]:
        return opening.point_at("add", *known, SimpleNamespace(index=at))  # type: ignore[arg-type]

    known = click((100, 120), click((20, 40), [None, "", ""]))
    assert known == [None, "20,40,81,81", ""]
    assert click((7, 9), known) == [None, "20,40,81,81", "7,9"]
    assert click((1, 2), click((7, 9), known)) == [[1, 2], "", ""], "and anew"
    assert opening.point_at("change", *known, SimpleNamespace(index=(1, 2))) == known  # type: ignore[arg-type]
    model = str(shutil.copytree(tiny_model, tmp_path / "model"))
    made = prepared(opening, found, task="add", place=known[1], model=model)
    masks = [read_labels(made.mask(frame)) for frame in range(9)]
    assert all(mask.any() for mask in masks)


def test_what_is_to_be_said_of_something_added() -> None:
    assert added("change", "1,2,3,4", "thing", "") == (None, None)
    assert added("add", " 1,2,3,4 ", "background", "9,9") == ("1,2,3,4", "background")
    assert added("add", "1,2,3,4", "thing", "9,9") == ("1,2,3,4", "9,9")
    with pytest.raises(UserError, match="two opposite corners"):
        added("add", "", "background", "")
    with pytest.raises(UserError, match="Click the thing"):
        added("add", "1,2,3,4", "thing", " ")
    assert box_between([9, 4], [3, 8]) == "3,4,7,5"


def test_recent_projects_are_entered(opening: OpeningPage, workspace: Workspace) -> None:
    gallery, roots = opening.show_recent()
    assert gallery.visible
    assert roots == [str(workspace.root.resolve())]
    assert opening.open_recent(roots, SimpleNamespace(index=0)) == roots  # type: ignore[arg-type]


def test_an_unsaved_mask_is_saved_before_a_run(
    run: RunPage, session: Session, begun: list[str]
) -> None:
    session.point([BALL])
    *_, wanted, asks = run._starter("both")(session.token, "")
    assert (wanted, asks.visible, begun) == ("both", True, [])
    *_, wanted, asks = run._continuer(True)(session.token, "", "both")
    assert (wanted, asks.visible, begun) == ("", False, ["both"])
    assert session.is_saved
    run._starter("train")(session.token, "")
    assert begun == ["both", "train"], "nothing is asked where all is saved"


def test_a_run_goes_on_with_the_saved_mask(
    run: RunPage, session: Session, begun: list[str]
) -> None:
    session.point([BALL])
    run._continuer(False)(session.token, "", "infer")
    assert begun == ["infer"]
    assert not session.is_saved


def test_commands_stand_there_although_the_plan_fails(run: RunPage, session: Session) -> None:
    plan, commands, takes = run.show_plan(session.token, "")
    assert "maskora train --config" in commands
    assert "on this machine" in takes
    session.workspace.config.write_text("[nonsense\n")
    plan, commands, _ = run.show_plan(session.token, "")
    assert "edit.toml" in plan
    assert "maskora train --config" in commands


def test_a_plans_columns_are_not_broken_and_sentences_are() -> None:
    shown = plan_html(
        "RAM, GB     encode\n  total       0.52\nencode: the <largest>, one after another"
    )
    assert shown.count('<span class="columns">') == 2
    assert shown.endswith("\nencode: the &lt;largest&gt;, one after another</pre>")


def test_the_model_can_be_changed_afterwards(
    run: RunPage, session: Session, workspace: Workspace
) -> None:
    before = load_config(workspace.config).model
    assert run.show_model(session.token) == ["", before.path]
    wan = base_config("wan2.1-fun-1.3b-inp").model
    assert run.change_model(session.token, "wan2.1-fun-1.3b-inp", before.path) == ["", wan.path]
    model = load_config(workspace.config).model
    assert (model.family, model.path, model.dtype) == (wan.family, wan.path, wan.dtype)
    run.change_model(session.token, "", "some/where")
    assert load_config(workspace.config).model.path == "some/where"
    with pytest.warns(UserWarning, match="outside the folders"):
        run.change_model(session.token, "", "/etc")
    assert load_config(workspace.config).model.path == "some/where"


def test_the_result_shown_is_the_chosen_edits(
    run: RunPage, session: Session, workspace: Workspace
) -> None:
    for edit in (None, "hat"):
        folder = workspace.output_dir(edit, None)
        folder.mkdir(parents=True)
        (folder / "edited.mp4").write_bytes(b"clip")
    (workspace.output_dir("hat", None) / "run.json").write_text("{}")
    result = run.look(session.token, "hat")[RESULT]
    assert "Result of edit hat, made " in result
    assert "edited.mp4?edit=hat&" in result
    assert run.look(session.token, "")[RESULT] == "", "not whole yet"
    (workspace.output_dir(None, None) / "run.json").write_text("{}")
    assert words.result_of(None, "") in run.look(session.token, "")[RESULT]


def test_with_nothing_open_the_run_page_says_so(run: RunPage) -> None:
    with pytest.warns(UserWarning, match="open a project first"):
        run._starter("both")("", "")
    assert run.look("", "")[0] == words.NOTHING_YET


@pytest.mark.parametrize(
    ("typed", "name"),
    [("red hat", "red-hat"), (" a  b/../c ", "a-b-c"), ("", ""), ("hat_2", "hat_2")],
)
def test_names_with_spaces_become_folders(typed: str, name: str) -> None:
    assert edit_name(typed) == name


def test_where_paths_may_lead_is_said_before_one_is_typed(
    opening: OpeningPage, tmp_path: Path
) -> None:
    assert str(tmp_path) in str(opening.typed.info)


def test_a_preset_is_written_and_recognised(
    run: RunPage, session: Session, workspace: Workspace
) -> None:
    run.change_effort(session.token, "draft")
    config = load_config(workspace.config)
    assert (config.inference.lora, config.transfer.start) == ("none", "inverted")
    chosen, about = run.show_effort(session.token)
    assert chosen == "draft"
    assert "Nothing is trained" in about
    run.change_effort(session.token, "best")
    config = load_config(workspace.config)
    assert (config.inference.lora, config.transfer.takes) == ("trained", False)
    good, best = steps_of("good", config), steps_of("best", config)
    assert (config.motion.steps, config.appearance.steps, config.inference.steps) == best
    assert best == (2 * good[0], 2 * good[1], round(1.5 * good[2]))
    assert all(str(number) in about for number in (*good, *best))
    set_values(workspace.config, {"inference.steps": 7})
    chosen, about = run.show_effort(session.token)
    assert chosen is None
    assert words.OWN_EFFORT in about


@pytest.mark.parametrize("base", BASES)
def test_good_is_what_a_bases_own_configuration_says(base: str) -> None:
    config = base_config(base)
    assert effort_of(config) == "good"
    own = config.motion.steps, config.appearance.steps, config.inference.steps
    assert steps_of("good", config) == own


def test_what_waits_is_shown_and_the_owner_takes_it_out(
    run: RunPage, session: Session, state: AppState, tmp_path: Path
) -> None:
    busy = Workspace(tmp_path / "busy")
    busy.runs_dir.mkdir(parents=True)
    own = identify(os.getpid())
    job = {"what": "train", "edit": None, "started": 1.0, "supervisor": own, "name": "train"}
    store(busy, Job.model_validate(job))
    with changing_queue() as queue:
        queue.latest = busy.root
        roots = (session.workspace.root, Path("/somewhere/else"))
        queue.waiting = [Ticket.of(root, "both", "hat") for root in roots]
    try:
        shown = run.look(session.token, "")
        assert shown[0] == words.QUEUED.capitalize()
        assert "<b>busy</b> <span>works now</span>" in shown[QUEUE]
        assert "<b>ws</b> <span>train and generate (hat)</span>" in shown[QUEUE]
        assert words.ANOTHER in shown[QUEUE]
        assert "somewhere" not in shown[QUEUE]
        assert shown[QUEUE].count("data-ticket") == 1
        mine, foreign = read_queue().waiting
        refused = {"token": session.token, "name": "withdraw", "ticket": foreign.name}
        assert "outside the folders" in act(state, refused)["error"]
        assert act(state, {**refused, "ticket": mine.name}) == {}
        assert read_queue().waiting == [foreign]
    finally:
        queue_file().unlink()


def test_previews_while_training_are_a_row(run: RunPage, session: Session) -> None:
    assert run.look(session.token, "")[PREVIEWS] == ""
    for stage, step in (("appearance", 50), ("motion", 100), ("motion", 50)):
        path = session.workspace.training_preview(None, stage, step)  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"clip")
    shown = run.look(session.token, "")[PREVIEWS]
    steps = [shown.index(f"<figcaption>{one}<") for one in (
        "motion, step 50", "motion, step 100", "appearance, step 50",
    )]  # fmt: skip
    assert steps == sorted(steps)


def result(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("edited.mp4", "comparison.mp4"):
        (folder / name).write_bytes(b"clip")
    (folder / "run.json").write_text(f'{{"seed": {seed}, "outputs": {{"edited.mp4": "{seed}"}}}}')


def test_versions_are_listed_compared_starred_and_removed(
    run: RunPage, session: Session, state: AppState
) -> None:
    output = session.workspace.output_dir(None, None)
    result(output / "001", 1)
    result(output, 2)
    about = {"token": session.token, "edit": ""}
    shown = run.look(session.token, "")[RESULT]
    assert "changed: seed 2 (was 1)" in shown
    assert shown.count("output/comparison.mp4?edit=&version=1&") == 2, "on either side"
    assert shown.count("data-remove") == 1, "the newest one stays"
    made = {one.number or 0: int(one.made * 1000) for one in find_versions(session.workspace, None)}
    assert f'data-version="1" data-made="{made[1]}"' in shown
    first = {**about, "version": 1, "made": made[1]}
    assert act(state, {**first, "name": "star", "on": True}) == {}
    assert run.look(session.token, "")[RESULT].count("★") == 1
    remove = {**first, "name": "remove"}
    assert "has the star" in act(state, remove)["error"]
    act(state, {**first, "name": "star", "on": False})
    for asked in (remove, {**first, "name": "wrong", "frame": 3}):
        assert "another one has its place" in act(state, {**asked, "made": made[1] - 1})["error"]
    assert act(state, remove) == {}
    assert not (output / "001").exists()
    assert (output / "edited.mp4").exists()
    newest = {**about, "name": "remove", "version": 0, "made": made[0]}
    assert "which is nothing" in act(state, newest)["error"]
    assert "no whole number" in act(state, {**about, "name": "star", "version": "../x"})["error"]
