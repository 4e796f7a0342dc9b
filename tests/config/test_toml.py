"""The configuration: every mistake at once, in words, and complete commented files."""

import re
import subprocess
import sys
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

from maskora.config import Config, build_config, load_config, render_config
from maskora.config.tables import FAMILIES, PARTS
from maskora.errors import UserError
from maskora.models import registry
from maskora.models.files.part import WHAT

NTSC_FILM = Fraction(24000, 1001)


def test_several_mistakes_are_told_at_once_each_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "edit.toml"
    path.write_text(
        '[motion]\nstep = 3\nwindow = 10\n[modle]\nx = 1\n[inference]\nlock = "pixl"\n'
        'loras = [{pth = "x"}]\n[adapter]\nrank = 0\n[video]\nframes = 4\n'
    )
    with pytest.raises(UserError) as caught:
        load_config(path)
    text = str(caught.value)
    assert "8 mistakes" in text.splitlines()[0]
    assert str(path) in text
    assert "[motion]: unknown key 'step': did you mean 'steps'?" in text
    assert "unknown table 'modle': did you mean 'model'?" in text
    assert "10 is not 4k+1" in text
    assert "try 9 or 13" in text
    assert "[video] frames" in text
    assert "[inference] lock: input should be 'pixel', 'model' or 'latent' (is 'pixl')" in text
    assert "[inference] loras.0: 'path' is missing" in text


def test_each_object_may_have_a_caption_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "edit.toml"
    path.write_text('[prompt]\ncaption = ["a man in red", "a dog"]\n')
    assert load_config(path).prompt.caption == "a man in red; a dog"
    path.write_text('[prompt]\ncaption = ["a man in red", 3]\n')
    with pytest.raises(UserError, match=r"\[prompt\] caption"):
        load_config(path)


def test_a_written_file_is_complete_commented_and_reads_back_the_same() -> None:
    config = build_config({"motion": {"window": "full"}, "inference": {"shift": 3.0}})
    text = render_config(config, "One edit.")
    assert text.startswith("# One edit.\n")
    assert build_config(tomllib.loads(text)) == config
    keys = re.findall(r"^(\w+) = ", text, flags=re.M)
    expected = [k for t in Config.model_fields for k in getattr(config, t).__class__.model_fields]
    assert keys == expected
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ = ", line):
            assert lines[number - 1].startswith("# "), f"{line} has no comment"


@pytest.mark.parametrize(
    ("override", "table", "key", "value"),
    [
        ("motion.window=full", "motion", "window", "full"),
        ("motion.window=13", "motion", "window", 13),
        ("prompt.caption=a man, walking", "prompt", "caption", "a man, walking"),
        ('prompt.caption="true"', "prompt", "caption", "true"),
        ("inference.lossless=true", "inference", "lossless", True),
        ("inference.guidance=1", "inference", "guidance", 1.0),
        ("video.size=auto:1280x720", "video", "size", "auto:1280x720"),
    ],
)
def test_set_reaches_every_kind_of_value(
    override: str, table: str, key: str, value: object
) -> None:
    assert getattr(getattr(build_config({}, [override]), table), key) == value


@pytest.mark.parametrize("override", ["motion", "motion.steps", "steps=3", "=3", ".x=3"])
def test_a_set_that_is_none_says_how_to_write_one(override: str) -> None:
    with pytest.raises(UserError, match=re.escape("table.key=value")):
        build_config({}, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("motion = [", "not valid TOML"), ("motion = 3", r"\[motion\]")],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "edit.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_reading_a_configuration_imports_no_torch() -> None:
    code = (
        "import sys, maskora.cli, maskora.app.preflight, maskora.app.prepare, maskora.app.plan;"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("folder", [r"C:\models\wan", r"C:\Users\me"])
def test_a_path_of_windows_between_double_quotes_is_told(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "edit.toml"
    path.write_text(f'[model]\npath = "{folder}"\n')
    with pytest.raises(UserError, match="a backslash begins an escape: write a path with / or"):
        load_config(path)
    path.write_text(f"[model]\npath = '{folder}'\n")
    assert load_config(path).model.path == folder
    assert load_config(path, [rf"model.path={folder}"]).model.path == folder


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ('path = "C:\\Users\\me"', "a backslash begins an escape"),
        ("path = C:\\Users\\me", "text stands between quotes"),
        ("path = miniature", "text stands between quotes"),
        ("path = “miniature”", "straight quotes"),
        ("clicks = [“0,1,1,+”]", "straight quotes"),
        ('caption = "it\u2019s a man', 'a " is missing'),
        ('path = "unfinished', 'a " is missing'),
        ('caption = "he says "hi" now"', "quotes of one kind"),
        ("lossless = True", "true or false"),
        ("lr = 0,0001", "a number has a point"),
        ("lr = .5", "digits before and after"),
        ("steps =", "a value is missing"),
        ("path: '/models'", "stands ="),
        ("// a comment", "begins with #"),
        ("x = 1", "stands there twice"),
        ("steps = " + "9" * 5000, "thousands of digits"),
        ("clicks = [1", "a [ has no ]"),
        ("x = " + "[" * 5000, "too deeply"),
        # The cure is about the place of the mistake, whatever else the line says.
        ("lossless = True  # don't", "true or false"),
        ("lr = 0,5  # it's half", "a number has a point"),
        ("steps = 5 6  # it's mine", "is it text?"),
        ("path = C:\\it's", "text stands between quotes"),
        ("caption = a man's hat", "text stands between quotes"),
        ('caption = a "man', "text stands between quotes"),
        ("x = 'it's'  # mine", "quotes of one kind"),
        ("clicks = ['0,1,1,+', 'it's']", "quotes of one kind"),
        ('clicks = ["C:\\q"]', "a backslash begins an escape"),
        ('steps = 5.  # say "a', "digits before and after"),
        ("steps =  # it's missing", "a value is missing"),
        ("[motion # it's", "Expected ']'"),
        ("caption = 'a # it is open", "a ' is missing"),
        ("caption = '''a", "a ' is missing"),
        ('caption = """a', 'a " is missing'),
        ("clicks = ['a' 'b']", "a , is missing"),
    ],
)
def test_a_line_that_is_no_toml_is_shown_with_its_cure(
    tmp_path: Path, line: str, cure: str
) -> None:
    path = tmp_path / "edit.toml"
    path.write_text(f"[model]\nx = 0\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as told:
        load_config(path)
    message = str(told.value)
    assert message.startswith(str(path))
    assert cure in message
    assert len(message) - len(str(path)) < 300
    if not any(without in cure for without in ("digits", "a [", "deeply")):
        assert "line 3" in message
        assert line.strip() in message


@pytest.mark.parametrize(
    ("text", "line"),
    [('a = \'it\'\nb = """x\ny', 2), ("a = 'x\nb = 1\n", 1), ('a = "\u2028"\n\na = 1', 3)],
)
def test_the_line_is_the_one_where_an_editor_shows_the_mistake(
    tmp_path: Path, text: str, line: int
) -> None:
    path = tmp_path / "edit.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"line {line} is not valid TOML") as told:
        load_config(path)
    assert text.split("\n")[line - 1] in str(told.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_a_file_in_another_encoding_is_told(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "edit.toml"
    path.write_bytes('[prompt]\ncaption = "größer"\n'.encode(encoding))
    found = "line 2 is not" if encoding == "latin-1" else "UTF-16"
    with pytest.raises(UserError, match=f"no text in UTF-8 .{found}.*encoding UTF-8"):
        load_config(path)
    path.write_text('[prompt]\ncaption = "größer"\n', encoding="utf-8-sig")
    assert load_config(path).prompt.caption == "größer"


@pytest.mark.parametrize(
    "override",
    [
        "memory.vram_budget_gb=1e308", "inference.guidance=1e308", "motion.steps=" + "9" * 400,
        "motion.steps=0x" + "f" * 6000, "motion.steps=" + "9" * 6000, "video.frames=" + "9" * 400,
        "motion.steps=" + "[" * 3000, "x." + "y." * 5000 + "z=1", "inference.feather=1e12",
        'inference.loras=[{path = "x", strength = 1e300}]',
    ],
)  # fmt: skip
def test_numbers_that_no_machine_has_and_endless_nesting(override: str) -> None:
    with pytest.raises(UserError) as told:
        build_config({}, [override])
    assert len(str(told.value)) < 500


def test_a_folder_is_no_file_whatever_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))  # Windows' words

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match="is a folder; name the TOML file in it"):
        load_config(tmp_path)
    (tmp_path / "edit.toml").touch()
    with pytest.raises(PermissionError):
        load_config(tmp_path / "edit.toml")


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("inference.shift", "model"),
        ("memory.blocks_to_swap", "auto"),
        ("memory.vram_budget_gb", "auto"),
        ("motion.window", "full"),
    ],
)
def test_where_a_number_or_a_word_stands_both_are_told(key: str, word: str) -> None:
    with pytest.raises(UserError, match=f"should be .* or '{word}' \\(is 'some'\\)"):
        build_config({}, [f"{key}=some"])


@pytest.mark.parametrize("given", ["24/0", "0/1", "24/", "1/2/3", "-24", "1001", "x"])
def test_what_is_no_rate_is_refused(given: str) -> None:
    with pytest.raises(UserError, match="is not a frame rate: write 24"):
        build_config({"video": {"fps": given}})


@pytest.mark.parametrize(
    ("given", "rate"), [("30000/1001", Fraction(30000, 1001)), ("24/1", 24), (23.976, NTSC_FILM)]
)
def test_rates_as_people_write_them(given: float | str, rate: Fraction) -> None:
    assert build_config({"video": {"fps": given}}).video.rate == rate


def test_overrides_leave_the_given_tables_as_they_are() -> None:
    tables = {"model": {"family": "wan2.1-i2v"}}
    assert build_config(tables, ["model.dtype=float16"]).model.dtype == "float16"
    assert tables == {"model": {"family": "wan2.1-i2v"}}


def test_the_names_of_families_and_parts_are_those_that_the_models_know() -> None:
    """The tables stand below the models, so they cannot ask."""
    assert tuple(registry.FAMILIES) == FAMILIES
    assert tuple(WHAT) == PARTS


def test_a_preset_says_all_of_transfer_and_a_wrong_file_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "edit.toml"
    file.write_text("[transfer]\nsmooth_noise = 0.1\n[motion]\nsteps = 7\n")
    config = load_config(file, [], "instant")
    assert config.transfer.smooth_noise == 0
    assert config.motion.steps == 7
    assert load_config(file, ["transfer.smooth_noise=0.2"], "instant").transfer.smooth_noise == 0.2
    file.write_text("inference = 3\n")
    with pytest.raises(UserError, match="inference"):
        load_config(file, [], "instant")
