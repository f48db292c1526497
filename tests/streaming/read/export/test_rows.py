"""What a row holds is its own, whatever characters are in it."""

from streaming.read.export.rows import _prefixed, fields_under


def test_a_carriage_return_within_a_row_ends_no_row() -> None:
    rows = b'1,a\rb\n2,"c\rd"\r\n'
    assert list(fields_under(b"n,text\n", rows)) == [{"n": "1", "text": "a\rb"}, {"n": "2", "text": "c\rd"}]
    assert _prefixed(b"run-1,", rows) == b'run-1,1,a\rb\nrun-1,2,"c\rd"\r\n'
