"""Small files of every format that is read, and what becomes of them when bytes change: for `test_fuzz` and others."""

import gzip
import logging
import os
import resource
import signal
import tempfile
import traceback
import warnings
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import tifffile
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from stored import write_h5
from v3dpy.loaders import PBD

from distill3d.errors import InputError

SHAPE = (6, 20, 24)
STACK = np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.uint8)
STACK[2:4, 5:15, 5:20] = 7  # runs, for formats that have codes for them
GREY = STACK.astype(np.uint16) * 9
SECONDS = 10
CHUNK = 500  # mutations of one child: hypothesis keeps what it has drawn
ROOM = 64 << 20  # bytes beside four times the honest size: threads that decode have stacks, libraries have buffers


def _tiff(data=STACK, **how):
    def write(path):
        tifffile.imwrite(path, data, photometric="minisblack", **how)

    return write


def _v3draw(path):
    header = b"raw_image_stack_by_hpeng" + b"L" + np.array([2], "<u2").tobytes()
    sizes = np.array([*SHAPE[::-1], 1], "<u4").tobytes()
    path.write_bytes(header + sizes + GREY.astype("<u2").tobytes())


def _nifti(path):
    image = nibabel.Nifti1Image(STACK.T, np.diag([0.5, 0.5, 2.0, 1.0]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)


def _nrrd(**header):
    about = {"space": "LPS", "space directions": np.diag([0.5, 0.5, 2.0]), "space origin": [1.0, 2.0, 3.0], **header}
    return lambda path: nrrd.write(str(path), GREY, about, index_order="C")


def _swc(path):
    rng = np.random.default_rng(1)
    points = np.cumsum(rng.normal(0, 2, (40, 3)), axis=0).round(2) + 10
    rows = [f"{n + 1} 3 {x} {y} {z} 1.5 {n or -1}" for n, (x, y, z) in enumerate(points)]
    text = "# SCALE 1 1 1\n# id type x y z radius parent\n" + "\n".join(rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


FILES = {
    "a.tif": _tiff(imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"}, resolution=(2.0, 2.0)),
    "zlib.tif": _tiff(imagej=True, compression="zlib", metadata={"axes": "ZYX"}),
    "tiles.tif": _tiff(GREY, tile=(16, 16), compression="lzw"),
    "ome.tif": _tiff(GREY, ome=True, bigtiff=True, metadata={"axes": "ZYX", "PhysicalSizeZ": 2.0}),
    "a.v3dpbd": lambda path: PBD().save(str(path), STACK[None]),
    "grey.v3dpbd": lambda path: PBD().save(str(path), GREY[None]),
    "a.v3draw": _v3draw,
    "a.nrrd": _nrrd(encoding="raw"),
    "gzip.nrrd": _nrrd(encoding="gzip"),
    "a.nii": _nifti,
    "a.nii.gz": _nifti,
    "a.npy": lambda path: np.save(path, GREY),
    "a.h5": lambda path: write_h5(path, GREY),
    "a.swc": _swc,
    "a.swc.gz": _swc,
}
ENDS = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)  # where numbers of a header turn over

place = st.one_of(st.integers(0, 600), st.floats(0, 1))  # of a header, or anywhere
changed = st.lists(
    st.tuples(
        st.sampled_from(("set", "flip", "cut", "drop", "repeat", "fill")),
        place,
        st.integers(0, 255),
        st.sampled_from((1, 2, 4, 8, 64)),
    ),
    min_size=1,
    max_size=4,
)


def mutated(content, changes):
    """Return the bytes with some set, flipped, dropped, repeated or filled with an extreme, or with the end cut."""
    content = bytearray(content)
    for how, where, value, length in changes:
        if not content:
            break
        at = int(where * (len(content) - 1)) if isinstance(where, float) else where % len(content)
        if how == "set":
            content[at] = value
        elif how == "flip":
            content[at] ^= 1 << value % 8
        elif how == "cut":
            del content[at:]
        elif how == "drop":
            del content[at : at + length]
        elif how == "repeat":
            content[at:at] = content[at : at + length]
        else:
            content[at : at + length] = bytes([ENDS[value % len(ENDS)]]) * len(content[at : at + length])
    return bytes(content)


def fuzz(name, read, *, examples, folder):
    """Read so many mutations of a file in a child with little memory; return what went wrong, and how many were read.

    Args:
        name: of `FILES`.
        read: of a path; may raise an `InputError` of one line, and nothing else.
        examples: mutations.
        folder: for the files; the last one that was read stays there as ``last``.
    """
    honest = Path(folder, name)
    FILES[name](honest)
    faults, count = [], 0
    for number, start in enumerate(range(0, examples, CHUNK)):
        lines, status = _forked(honest, read, min(CHUNK, examples - start), number)
        count += sum(int(line.split()[1]) for line in lines if line.startswith("READ "))
        faults += [line for line in lines if not line.startswith("READ ")]
        if status:
            faults.append(f"the child ended with {status}: a signal if below 0, {signal.SIGALRM:d} after {SECONDS} s")
    return faults, count


def _forked(honest, read, examples, number):
    log = honest.with_name("log")
    child = os.fork()
    if child == 0:
        code = 1
        with log.open("w", buffering=1) as out:
            try:
                code = _in_child(honest, read, examples, number, out)
            except BaseException:  # noqa: BLE001 - the child must not go on as pytest
                traceback.print_exc(file=out)
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return log.read_text(errors="replace").splitlines(), status


def _in_child(honest, read, examples, number, out):
    content = honest.read_bytes()
    packed = content.startswith(b"\x1f\x8b")
    inner = gzip.decompress(content) if packed else content
    target = Path(tempfile.mkdtemp(dir=honest.parent), honest.name)
    read(honest)  # imports, pools of threads
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries log
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + 4 * max(len(inner), STACK.nbytes * 2) + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    noise = _noise()
    count, faults = 0, {}

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(changes=changed, inside=st.booleans())
    def look(changes, inside):
        nonlocal count
        count += 1
        bad = gzip.compress(mutated(inner, changes), 1) if packed and inside else mutated(content, changes)
        target.write_bytes(bad)
        signal.alarm(SECONDS)
        fault = _fault(read, target, noise)
        signal.alarm(0)
        if fault and fault not in faults:
            faults[fault] = changes
            target.with_name(f"fault{len(faults)}{target.name}").write_bytes(bad)
            out.write(f"{fault} | {changes} {inside}\n")

    look()
    out.write(f"READ {count}\n")
    return 0


def _noise():
    """Return a list of what libraries say beside an error."""
    said = []

    class Heard(logging.Handler):
        def emit(self, record):
            if not record.name.startswith("distill3d"):
                said.append(record.getMessage())

    logging.getLogger().addHandler(Heard(logging.WARNING))
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: said.append(str(message))
    return said


def _fault(read, path, noise):
    """Read a file; say what is wrong with how it was refused, empty if nothing is."""
    noise.clear()
    try:
        read(path)
    except InputError as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, MemoryError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            return "asked for too much memory"
        if len(str(error).splitlines()) != 1:
            return f"several lines: {str(error)!r}"
        return f"beside the error: {noise[0][:100]}" if noise else ""
    except MemoryError:
        return "asked for too much memory"
    except Exception as error:  # noqa: BLE001 - each is a fault
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:100]!r}"
    return ""
