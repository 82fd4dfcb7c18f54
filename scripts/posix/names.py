"""Names of every kind in the folder given. `make` makes and lists them, `check` lists them again;
each file holds its own name. Called by programs.sh."""
import errno
import os
import sys
import unicodedata

LONGEST = 255


def wanted():
    names = {b"n" * LONGEST, b"\xff" * LONGEST, "\u00e9".encode() * 127, b"-rf", b" ", b"...", b"~",
             b"two\nlines", b"\n", b"tab\there", b"\xff\xfe\x80", b"half \xc3", b"back\\slash", b'"quotes"',
             b"*?[a]", b"$(false)", b"COM1", b"a:b", b"trailing.", b"trailing ", "\U0001f980".encode(),
             "\u65e5\u672c\u8a9e".encode(), b"case", b"Case", b"CASE"}
    names |= {b"byte %d " % byte + bytes([byte]) for byte in range(1, 256) if byte != ord("/")}
    return names


def make():
    for name in wanted():
        with open(name, "xb") as file:
            file.write(name)
    for name in (b"n" * (LONGEST + 1), "\u00e9".encode() * 128):
        try:
            open(name, "xb")
            sys.exit(f"a name of {len(name)} bytes was taken")
        except OSError as error:
            assert error.errno == errno.ENAMETOOLONG, error
    # Two spellings of one text are one name, whichever is used.
    composed, decomposed = "\u00fcber".encode(), unicodedata.normalize("NFD", "\u00fcber").encode()
    with open(composed, "xb") as file:
        file.write(composed)
    assert os.stat(decomposed).st_ino == os.stat(composed).st_ino
    os.remove(decomposed)
    assert not os.path.exists(composed)
    # A name moves to every other kind of name and back.
    for name in wanted():
        os.rename(name, b"moving")
        os.rename(b"moving", name)
    os.mkdir(b"d\n")
    os.symlink(b"two\nlines", b"d\n/\xfe")
    assert os.readlink(b"d\n/\xfe") == b"two\nlines"
    os.remove(b"d\n/\xfe")
    os.rmdir(b"d\n")


def check():
    listed = os.listdir(b".")
    assert len(listed) == len(set(listed)), "a name is listed twice"
    assert set(listed) == wanted(), set(listed) ^ wanted()
    for name in listed:
        with open(name, "rb") as file:
            assert file.read() == name, name


os.chdir(sys.argv[2])
if sys.argv[1] == "make":
    make()
check()
