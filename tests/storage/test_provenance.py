"""The commit of a result is that of this code, not of whatever repository lies around it."""

import subprocess

from distill3d.storage.provenance import _commit


def test_only_the_repository_that_tracks_the_code_has_its_commit(tmp_path):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    installed, own = tmp_path / "venv" / "installed.py", tmp_path / "own.py"
    installed.parent.mkdir()
    for file in (installed, own):
        file.write_text("1")
    assert _commit(own) is None
    git("init", "--quiet")
    git("add", "own.py")
    git("commit", "--quiet", "-m", "first")
    head = git("rev-parse", "HEAD").strip()
    assert (_commit(own), _commit(installed)) == (head, None)
    own.write_text("2")
    assert _commit(own) == f"{head}+dirty"
