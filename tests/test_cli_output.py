"""What the command line prints is what it was given."""

from cmkd.cli_output import print_table


def test_no_text_of_a_table_is_read_as_markup(capsys):
    print_table(["class", "[a]"], [["[x]", "runs/[b]/seed0"], ["[/x]", ":smile:"], ["ends in \\", "1"]])
    cells = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [cells[0], *cells[2:]] == [
        ["class", "[a]"],
        ["[x]", "runs/[b]/seed0"],
        ["[/x]", ":smile:"],
        ["ends", "in", "\\", "1"],
    ]
