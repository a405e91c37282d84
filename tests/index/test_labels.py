"""Files of labels, as people, spreadsheets and scripts write them."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from index.items import Item
from index.labels import given_labels, label_of, labels_in, match, read_labels
from index.walking import DataError
from tests.labels import REFUSED, TAKEN


def read(tmp_path: Path, content: str | bytes, *files: str) -> dict[str, str]:
    """What a file says of a folder with these files, x.png and y.png if none are named."""
    file = tmp_path / "labels.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    labels = read_labels(
        file, tmp_path / "album", [Path(name) for name in files or ("x.png", "y.png")]
    ).labels
    return {path.as_posix(): label for path, label in labels.items()}


BOTH = {"x.png": "owl", "y.png": "eel"}


@pytest.mark.parametrize(
    "content",
    [
        "path,label\nx.png,owl\ny.png,eel\n",
        "path,label\nx.png,owl\ny.png,eel",  # no end of the last line
        "path,label\r\nx.png,owl\r\ny.png,eel\r\n",  # Windows
        "path,label\rx.png,owl\ry.png,eel\r",  # an old Macintosh
        b"\xef\xbb\xbfpath,label\nx.png,owl\ny.png,eel\n",  # a spreadsheet's mark of UTF-8
        b'\xef\xbb\xbf"path","label"\r\n"x.png","owl"\r\n"y.png","eel"\r\n',
        "label,path\nowl,x.png\neel,y.png\n",
        "Path,LABEL\nx.png,owl\ny.png,eel\n",
        " path , label \n x.png , owl \ny.png,\teel\n",
        'path, label\n"x.png", "owl"\ny.png,eel\n',  # quotes after a space
        "path,split,label\nx.png,train,owl\ny.png,,eel\n",
        "path,label\nx.png,owl,who,knows\ny.png,eel\n",
        "path,label\n\nx.png,owl\n \n,\ny.png,eel\n\n",
        "path,label\n./x.png,owl\n././/y.png,eel\n",
    ],
)
def test_all_these_say_the_same(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == BOTH


def test_cells_may_hold_commas_quotes_lines_and_any_letter(tmp_path: Path) -> None:
    content = 'path,label\n"y, z.png",première\n"a ""b"".png","two ""words"""\nsub/日本.png,"owl, tawny"\n'
    files = ("y, z.png", 'a "b".png', "sub/日本.png")
    assert read(tmp_path, content, *files) == dict(
        zip(files, ("première", 'two "words"', "owl, tawny"), strict=True)
    )


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("rome/cafe\u0301.png", "rome/caf\u00e9.png"),
        ("rome/caf\u00e9.png", "rome/cafe\u0301.png"),  # macOS unpacks it so
        ("rome\\17.jpg", "rome/17.jpg"),  # Windows
        (".\\rome\\17.jpg", "rome/17.jpg"),
        ("x.png", "x.png "),
        ("x.png ", "x.png"),
        ("x.png ", "x.png "),
        ("back\\slash.png", "back\\slash.png"),
    ],
)
def test_a_path_names_the_file_that_it_can_only_mean(tmp_path: Path, given: str, file: str) -> None:
    assert read(tmp_path, f"path,label\n{given},owl\n", file, "other.png") == {file: "owl"}


def test_of_names_that_differ_only_so_each_has_its_own_label(tmp_path: Path) -> None:
    files = ("caf\u00e9.png", "cafe\u0301.png", "x.png", "x.png ")
    content = "path,label\n" + "".join(f'"{file}",{number}\n' for number, file in enumerate(files))
    assert read(tmp_path, content, *files) == {file: str(number) for number, file in enumerate(files)}


def test_a_path_may_lead_to_the_file_by_a_link_or_from_the_root(tmp_path: Path) -> None:
    album = tmp_path / "album"
    (album / "real").mkdir(parents=True)
    (album / "alias").symlink_to("real")
    for name in ("x.png", "y.png"):
        (album / "real" / name).touch()
    content = f"path,label\nalias/x.png,owl\n{album}/real/y.png,eel\n"
    files = ("real/x.png", "real/y.png")
    assert read(tmp_path, content, *files) == dict(zip(files, ("owl", "eel"), strict=True))
    with pytest.raises(DataError, match=r"real/x\.png is labelled more than once"):
        read(tmp_path, "path,label\nalias/x.png,owl\nreal/x.png,eel\n", *files)


@pytest.mark.parametrize(("text", "label"), TAKEN)
def test_labels_in_a_file_are_labels_as_everywhere(tmp_path: Path, text: str, label: str) -> None:
    assert label_of(text) == label_of(label) == label
    assert read(tmp_path, f'path,label\nx.png,"{text}"\n') == {"x.png": label}


def test_a_pipe_is_read_which_cannot_be_rewound(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"path;label\nx.png;owl\n")
    os.close(writing)
    with os.fdopen(reading):
        found = read_labels(Path(f"/dev/fd/{reading}"), tmp_path, [Path("x.png")])
    assert found.labels == {Path("x.png"): "owl"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_spreadsheets_write_is_read(tmp_path: Path, separator: str) -> None:
    content = f"path{separator}label\nx.png{separator}owl, tawny\n"
    assert read(tmp_path, content) == {"x.png": "owl, tawny"}


@pytest.mark.parametrize(("text", "what", "where"), REFUSED)
def test_what_is_no_label_is_refused_with_its_place(tmp_path: Path, text: str, what: str, where: str) -> None:
    with pytest.raises(DataError, match=rf"^label '.*: .*{what}.*{where}"):
        label_of(text)
    with pytest.raises(DataError, match=rf"labels\.csv: x\.png: label '.*{what}.*{where}"):
        read(tmp_path, f'path,label\nx.png,"{text}"\n')


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(DataError, match=r"half of a surrogate pair \(U\+DCE9\) at position 4"):
        label_of("caf\udce9")


def test_files_without_a_line_have_no_label(tmp_path: Path) -> None:
    assert read(tmp_path, "path,label\nx.png,owl\n") == {"x.png": "owl"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "path,label\nx.png,owl\ngone.png,owl\n",
            r"1 labels name no file below .*album \(first: gone\.png\)",
        ),
        (
            "path,label\nb.png,owl\na.png,owl\n",
            r"2 labels name no file below .* \(first: a\.png\); paths are",
        ),
        ("path,label\n../secret.png,owl\n", r"name no file below .*first: \.\./secret\.png"),
        ("path,label\n/x.png,owl\n", r"name no file below .*first: /x\.png"),
        ("path,label\nX.PNG,owl\n", r"name no file below .*first: X\.PNG"),
        ("path,label\n.,owl\n", r"name no file below .*first: \."),
        (
            "file,class\nx.png,owl\n",
            "the first line must be 'path,label', and at least one image must follow; it is 'file,class'",
        ),
        ("path\nx.png\n", "the first line must be 'path,label'"),
        ("file;label\n", "the first line must be 'path,label'"),
        ("x.png,owl\n", "the first line must be 'path,label'"),
        ("path,label\n", "no image follows the first line 'path,label'"),
        ("path,label,Label\nx.png,owl,eel\n", "the first line has 'label' more than once"),
        ("path, PATH,label\nx.png,y.png,eel\n", "the first line has 'path' more than once"),
        ("path,label\n\n ,\n", "no image follows the first line"),
        ("", "the first line must be"),
        (b"\xef\xbb\xbf", "the first line must be"),
        ("\n\n", "the first line must be"),
        ("path,label\nx.png,owl\nx.png,eel\n", r"x\.png is labelled more than once; keep one line"),
        ("path,label\nx.png,owl\nx.png,owl\n", r"x\.png is labelled more than once"),
        ("path,label\nx.png,owl\n./x.png,owl\n", r"x\.png is labelled more than once"),
        ("path,label\nx.png,\n", r"x\.png has an empty label; write one, or leave the line out"),
        ('path,label\nx.png,"  "\n', r"x\.png has an empty label"),
        ("path,label\nx.png\n", r"x\.png has an empty label"),
        (b"\xff\xfe\x00path", r"is not in UTF-8 \(invalid start byte\); save it as CSV in UTF-8"),
        ("path,label\nx.png,owl\n".encode("utf-16"), "is not in UTF-8"),
        ("path,label\nx.png,première\n".encode("latin-1"), "is not in UTF-8"),
        ("sep=;\nfile;label\n", "the first line must be .* it is 'file;label'"),
        ("path,label\nx.png," + "o" * 200_000, r"the labels cannot be read \(field larger"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/labels\.csv: .*{says}"):
        read(tmp_path, content)


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    for file, why in ((tmp_path / "gone.csv", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DataError, match=rf"^{file}: the labels cannot be read \(.*{why}"):
            read_labels(file, tmp_path, [])


@pytest.mark.parametrize(
    ("cell", "label"), [("owl", "owl"), (" tawny owl\t", "tawny owl"), ("  ", ""), ("", "")]
)
def test_a_label_is_a_text_without_the_spaces_around_it(cell: str, label: str) -> None:
    assert label_of(cell) == label


def test_a_column_that_is_not_asked_for_may_be_there_twice(tmp_path: Path) -> None:
    content = "path,label,folder,folder,source\nx.png,owl,a,b,guess\ny.png,eel,a,b,\n"
    assert read(tmp_path, content) == BOTH
    with pytest.raises(DataError, match="has 'folder' more than once"):
        given_labels(tmp_path / "labels.csv")


# --- the hash of a file decides ---------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """x.png, its copy sub/x2.png, and y.png."""
    (tmp_path / "album" / "sub").mkdir(parents=True)
    for name, content in (("x.png", b"x"), ("sub/x2.png", b"x"), ("y.png", b"y")):
        (tmp_path / "album" / name).write_bytes(content)
    return tmp_path / "album"


FILES = ("x.png", "sub/x2.png", "y.png")
X, Y, OTHER = (sha256(content).hexdigest() for content in (b"x", b"y", b"other"))


@pytest.mark.usefixtures("album")
@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ([f"y.png,eel,{Y}"], {"y.png": "eel"}),
        ([f"old/place.png,eel,{Y}"], {"y.png": "eel"}),  # it has moved
        ([f"old/place.png,owl,{X.upper()}"], {"x.png": "owl", "sub/x2.png": "owl"}),  # and has a copy
        ([f"x.png,owl,{X}"], {"x.png": "owl"}),  # its copy has a line of its own, or none
        ([f"x.png,eel,{Y}"], {"y.png": "eel"}),  # another file lies there now
        ([f"x.png,owl,{X}", f"sub/x2.png,owl,{X}"], {"x.png": "owl", "sub/x2.png": "owl"}),
        ([f"a.png,owl,{X}", f"b.png,owl,{X}"], {"x.png": "owl", "sub/x2.png": "owl"}),
        ([f"x.png,owl,{OTHER}", "y.png,eel,"], {"y.png": "eel"}),  # no longer here
    ],
)
def test_the_hash_of_a_file_decides_where_there_is_one(
    tmp_path: Path, lines: list[str], labels: dict[str, str]
) -> None:
    assert read(tmp_path, "\n".join(["path,label,sha256", *lines]), *FILES) == labels


@pytest.mark.usefixtures("album")
def test_what_a_hash_cannot_decide_is_refused(tmp_path: Path) -> None:
    for lines, fault in (
        (f"a.png,owl,{X}\nb.png,eel,{X}", "x.png is labelled 'owl' and 'eel'; keep one line"),
        (f"y.png,owl,\na.png,eel,{Y}", "y.png is labelled 'owl' and 'eel'; keep one line"),
        (f"a.png,owl,{OTHER}", "1 labels name no file below"),  # of all of them none is here
        (f"y.png,eel,{Y}\nz.png,owl,", r"1 labels name no file below .* \(first: z.png\)"),
    ):
        with pytest.raises(DataError, match=fault):
            read(tmp_path, f"path,label,sha256\n{lines}", *FILES)


def test_files_are_read_only_where_a_hash_asks_for_them(album: Path, tmp_path: Path) -> None:
    (album / "sub" / "x2.png").unlink()
    (album / "sub" / "x2.png").symlink_to(tmp_path / "nowhere")  # cannot be read, and need not be
    assert read(tmp_path, f"path,label,sha256\ny.png,eel,{Y}\nx.png,owl,", *FILES) == {
        "y.png": "eel",
        "x.png": "owl",
    }
    assert read(tmp_path, f"path,label,sha256\nz.png,eel,{Y}", *FILES) == {"y.png": "eel"}


def test_what_excel_writes_first_is_no_line(tmp_path: Path) -> None:
    assert read(tmp_path, "sep=;\r\npath;label\r\nx.png;owl\r\n") == {"x.png": "owl"}


def matched(tmp_path: Path, *lines: str) -> dict[str, tuple[str, str]]:
    """The label and its source, by path, that lines give three equal files, one of them in another folder."""
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,folder,sha256,source", *lines]))
    items = [
        Item(number, path, None, "database", 8, 8, sha256=X, folder=folder)
        for number, (path, folder) in enumerate([("x.png", None), ("copy.png", None), ("x.png", "other")])
    ]
    found, strays = match(given_labels(tmp_path / "labels.csv"), items)
    assert not strays
    return {
        f"{items[id_].folder or ''}/{items[id_].path}": (each.label, each.source)
        for id_, each in found.items()
    }


def test_two_labels_of_equal_files_name_both(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^x\.png, which is the same file as copy\.png, is labelled 'owl' and"
    ):
        matched(tmp_path, f"x.png,owl,,{X},", f"copy.png,eel,,{X},")
    with pytest.raises(DataError, match=r"^copy\.png is labelled 'eel' and 'owl'; keep one line"):
        matched(tmp_path, f"copy.png,eel,,{X},", f"copy.png,owl,,{X},")


def test_equal_files_keep_the_labels_of_their_own_lines(tmp_path: Path) -> None:
    """As the service writes them, where one is wrong and nobody has corrected it yet."""
    own = f"copy.png,eel,,{X},group", f"x.png,owl,,{X},given", f"x.png,ant,other,{X},accepted"
    wanted = {"/copy.png": ("eel", "group"), "/x.png": ("owl", "given"), "other/x.png": ("ant", "accepted")}
    for lines in (own, own[::-1]):
        assert matched(tmp_path, *lines) == wanted
    assert matched(tmp_path, own[0]) == dict.fromkeys(wanted, ("eel", "group"))


def test_a_line_of_what_lies_elsewhere_now_is_of_its_equals_and_no_stray(tmp_path: Path) -> None:
    own = f"copy.png,owl,,{X},", f"x.png,owl,,{X},", f"x.png,owl,other,{X},"
    assert set(matched(tmp_path, *own, f"gone.png,owl,,{X},").values()) == {("owl", "given")}
    with pytest.raises(DataError, match=r"which is the same file as gone\.png, is labelled 'owl' and 'eel'"):
        matched(tmp_path, *own, f"gone.png,eel,,{X},")


@pytest.mark.usefixtures("album")
def test_what_somebody_looked_at_counts_where_lines_meet(tmp_path: Path) -> None:
    lines = f"gone.png,owl,,{X},group", f"away.png,owl,,{X},given"
    for some in (lines, lines[::-1]):
        assert set(matched(tmp_path, *some).values()) == {("owl", "given")}
        text = "\n".join(["path,label,folder,sha256,source", *some])
        (tmp_path / "labels.csv").write_text(text)
        assert not labels_in(tmp_path / "labels.csv", tmp_path, [Path(name) for name in FILES]).grouped
    assert set(matched(tmp_path, lines[0]).values()) == {("owl", "group")}


def test_a_source_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label,source\nx.png,owl, Group\n")
    assert [each.source for each in given_labels(tmp_path / "labels.csv")] == ["group"]
    assert labels_in(tmp_path / "labels.csv", tmp_path, [Path("x.png")]).grouped == {Path("x.png")}
    (tmp_path / "labels.csv").write_text("path,label,source\nx.png,owl,guess\n")
    with pytest.raises(DataError, match=r"x\.png: source 'guess': use one of given, accepted, group"):
        given_labels(tmp_path / "labels.csv")


def test_a_predicted_label_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, "path,label,source\nx.png,owl,group\ny.png,eel,predicted\n") == {"x.png": "owl"}
    (only,) = given_labels(tmp_path / "labels.csv")
    assert (only.path, only.source) == ("x.png", "group")
    text = "path,label,source\ny.png,eel, predicted \n"
    for reading in (lambda: read(tmp_path, text), lambda: given_labels(tmp_path / "labels.csv")):
        with pytest.raises(DataError, match="all its labels are predicted"):
            reading()
